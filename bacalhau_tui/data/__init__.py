"""Client-side views without Textual: what screens and one-shot commands show, and how it stays up to date.

::

    Client ──► session.Session ──► store.Store ──► view.TableView ──► a list widget
                │   link state       rows by id      sorted, filtered ids
                └──► detail.JobDetail (why, executions, history, logs, results of one job) ──► a detail screen

* `settings`  files, environment and flags into one typed object; profiles; which credential
* `session`   keeps the client connected and the store fed (snapshot, then feed); `Link` says how that goes
* `store`     tables of rows with revisions and gathered changes
* `view`      `TableView`: index over a table; `refresh(now_ns)` four times a second, then `ids`, `place_of`
* `columns`   what lists are made of: `Cell`, `Column` (`cell(row, now_ns)`), `Layout`
* `tables`    the lists there are: `JOBS`, `EXECUTIONS`, `NODES`
* `query`     the filter language and `:` commands
* `detail`    `JobDetail`: loads only what the visible tab needs, refreshes when the feed says so
* `loglines`  `LogBuffer`: bounded lines of all executions of a job, searchable
* `format`    words, numbers, marks; `clean` for everything that other people wrote

Times are integers of nanoseconds since the epoch. A reader passes a `wake` callback, which is called on the event loop
at most once until it takes what gathered; it should set a flag or post one message, nothing more.
"""
