"""Widgets. They know the data layer's plain views, never the client; screens bring the two together.

* `lines`   `Lines`: paints strips itself and refreshes only the cells that differ; the base of all lists and texts
* `table`   `Table`: rows of a `TableView`, thousands of them; cursor and marks are ids
* `page`    `PageView`: styled lines of text with a search
* `log`     `LogView`: a `LogBuffer`, followed, searched, filtered, wrapped
* `bars`    the rows around the body: header or banner, crumb, tabs, hints
* `prompt`  the row that `:` and `/` share with short messages
"""
