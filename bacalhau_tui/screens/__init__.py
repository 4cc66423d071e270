"""Screens: each brings one part of the data layer and some widgets together. Imported when they are first shown.

* `frame`     `Frame`: header, crumb, body, prompt, hints, and the beat that updates them; the base of all full screens
* `jobs`, `nodes`  the two lists
* `job`, `execution`, `node`  one of them, with tabs
* `dialogs`, `palette`, `help`  over the others
"""
