"""The one client library, used by the TUI and by the one-shot commands; everything goes over one `Bus`.

* `client`   `Client`: typed methods for every verb, retries, error values rebuilt
* `feed`     `Feed`: row changes with gaps noticed
* `watch`    `watch_job`: a job and its executions until the job's end
* `logs`     `follow_logs`: the logs of all executions, merged, until they end
* `results`  `fetch_results`: result trees, resumable, verified
* `testing`  `FakeOrchestrator`: an orchestrator and its nodes on a bus in memory, for tests of clients
"""
