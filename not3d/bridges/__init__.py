"""Bridges: other systems' tracks in, records of the service out.

A *source* listens to another system and makes one `Tracklet` of each track. The `Sink` keeps it on disk until the
service has enrolled it. `runner.run_bridge` runs both until the process is asked to stop.

    tracklet   what a source hands over, and how crops are cut
    state      what is in progress, waiting, enrolled and dropped, in one SQLite file
    sink       enrols with `not3d.client`, and waits while the service is down
    mqtt       a connection to a broker that comes back
    telemetry  metrics, and log lines that say what was dropped and why
    runner     one source and its sink, until SIGTERM
"""
