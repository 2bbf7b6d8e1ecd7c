"""``ntmem doctor``: the command around :mod:`ntmem.tiers.doctor`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from .output import EXIT_FAILED, EXIT_MISSING, fail, json_option, print_json, verb

_EPILOG = """
\b
Exit codes:
  0  all is well, or was done
  1  something is wrong with a region (what and what to do is printed), or what
     was asked for could not be done
  2  wrong usage
  3  no store there

\b
Examples:
  ntmem doctor                      all regions of this user on this machine
  ntmem doctor ./desk               that of one store
  ntmem doctor --flush ./desk       after a crash, without starting the agents
  ntmem doctor --clean              remove what dead processes have left, if all of it is on disk
  ntmem doctor --set-aside /dev/shm/ntmem-1000-0123456789abcdef ./desk
"""


@click.command(epilog=_EPILOG)
@click.argument("directories", nargs=-1, metavar="[DIRECTORY]...", type=click.Path(path_type=Path))
@click.option("--flush", "do_flush", is_flag=True, help="Bring what is in shared memory to disk: opens the stores.")
@click.option("--clean", "do_clean", is_flag=True, help="Remove regions that nobody has and that hold nothing else.")
@click.option("--set-aside", "region", metavar="REGION", help="Move a damaged or foreign region into DIRECTORY.")
@json_option
@verb
def doctor(directories: tuple[Path, ...], do_flush: bool, do_clean: bool, region: str | None, as_json: bool) -> None:
    """Show the shared memory of stores: whose it is, who has it, and what of it is not on disk.

    Without DIRECTORY it shows all regions of this user. It changes nothing unless told to, and waits for nobody.
    """
    from ..tiers.doctor import clean, flush, set_aside, survey

    if do_flush + do_clean + (region is not None) > 1:
        raise click.UsageError("choose one of --flush, --clean and --set-aside")
    for directory in directories if region is None else ():
        if not (directory / "data.mdb").exists():
            fail(f"there is no store in {directory}; give the directory that holds its data.mdb", EXIT_MISSING)
    if do_flush and not directories:
        raise click.UsageError("--flush needs the DIRECTORY of a store")
    if region is not None:
        if len(directories) > 1:
            raise click.UsageError("--set-aside takes one DIRECTORY")
        copy = set_aside(region, *directories)
        if as_json:
            print_json({"region": region, "copy": copy})
        else:
            click.echo(f"{region} is now {copy}")
        return
    if do_flush or do_clean:
        done = [flush(directory) for directory in directories] if do_flush else clean(directories)
        if as_json:
            print_json([report.to_dict() for report in done])
        for report in [] if as_json else done:
            where = report.directory or "a store that is not known"
            if do_flush:
                click.echo(f"{where}: all is on disk ({report.unflushed or 0} bytes were not)")
            else:
                click.echo(f"removed {report.path}, of {where}")
        return
    reports = survey(directories)
    if as_json:
        print_json([report.to_dict() for report in reports])
    elif not reports:
        click.echo("no shared regions: everything is on disk")
    for report in [] if as_json else reports:
        _print(report)
    if not all(report.ok for report in reports):
        sys.exit(EXIT_FAILED)


def _print(report: Any) -> None:
    if report.path is None:
        click.echo(f"{report.directory}: no shared region; everything is on disk")
        return
    click.echo(f"{report.path}: {report.state}")
    facts = {
        "store": report.directory or "not known (no living process has it open; give its directory)",
        "size": f"{report.size} bytes",
        "attached": ", ".join(map(str, report.attached)) or "nobody",
    }
    if report.unflushed is not None:
        facts["not on disk"] = f"{report.unflushed} bytes, the oldest for {report.lag:.1f} s"
        facts["flushed by"] = f"process {report.leader}" if report.leader else "nobody"
    for name, fact in facts.items():
        click.echo(f"  {name:<12} {fact}")
    for problem in report.problems:
        click.echo(f"  problem      {problem}")
    for advice in report.advice:
        click.echo(f"  what to do   {advice}")
