"""``ntmem serve-metrics``: the figures of a store, for Prometheus."""

from __future__ import annotations

import threading
from pathlib import Path

import click

from .output import EXIT_CODES, EXIT_FAILED, EXIT_MISSING, fail, store_option, until_interrupted, verb

_EPILOG = (
    """
\b
Examples:
  ntmem serve-metrics --store ./desk
  curl http://127.0.0.1:9464/metrics
  ntmem serve-metrics --dashboard > ntmem.json    import this into Grafana
Ctrl-C and SIGTERM end it with 0.
"""
    + EXIT_CODES
)


@click.command("serve-metrics", epilog=_EPILOG)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=9464, show_default=True, type=click.IntRange(0, 65535), help="0: any free one.")
@click.option("--dashboard", "wants_dashboard", is_flag=True, help="Print a dashboard for Grafana, and end.")
@store_option
@verb
def serve_metrics(host: str, port: int, wants_dashboard: bool, store: Path) -> None:
    """Serve the figures of a store to Prometheus, at /metrics.

    It looks at the shared memory when it is scraped, and is no user of the store: others open, close and remove it as
    if nobody was there. While nobody has it open, ntmem_up is 0.
    """
    try:
        from prometheus_client import start_http_server

        from ..integrations.metrics import dashboard, registry_of
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("prometheus_client"):
            raise
        fail("serve-metrics needs prometheus-client: pip install 'ntmem[metrics]'", EXIT_FAILED)
    if wants_dashboard:
        click.echo(dashboard(), nl=False)
        return
    if not (store / "data.mdb").exists():
        fail(f"there is no store in {store}; give its directory with --store", EXIT_MISSING)
    try:
        server, thread = start_http_server(port, host, registry_of(store))
    except OSError as error:
        fail(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port", EXIT_FAILED)
    try:
        with until_interrupted():
            click.echo(f"http://{host}:{server.server_address[1]}/metrics")
            threading.Event().wait()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
