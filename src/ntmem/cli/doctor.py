"""``ntmem doctor``: the command around :mod:`ntmem.tiers.doctor` and :mod:`ntmem.tiers.machine`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .output import EXIT_FAILED, EXIT_MISSING, fail, json_option, plain, print_json, verb

if TYPE_CHECKING:
    from ..tiers.machine import Finding

_EPILOG = """
\b
Exit codes:
  0  all is well but for warnings, or was done
  1  there is a problem (with --strict: or a warning), or what was asked for
     could not be done; what to do is printed
  2  wrong usage
  3  no store there

\b
Examples:
  ntmem doctor                      this machine, and all regions of this user
  ntmem doctor ./desk               this machine, and one store
  ntmem doctor --flush ./desk       after a crash, without starting the agents
  ntmem doctor --clean              remove what dead processes have left
  ntmem doctor --set-aside /dev/shm/ntmem-1000-0123456789abcdef ./desk
"""


@click.command(epilog=_EPILOG)
@click.argument("directories", nargs=-1, metavar="[DIRECTORY]...", type=click.Path(path_type=Path))
@click.option("--flush", "do_flush", is_flag=True, help="Bring what is in shared memory to disk: opens the stores.")
@click.option("--clean", "do_clean", is_flag=True, help="Remove regions that nobody has and that hold nothing else.")
@click.option("--set-aside", "region", metavar="REGION", help="Move a damaged or foreign region into DIRECTORY.")
@click.option("--strict", is_flag=True, help="Warnings are problems.")
@json_option
@verb
def doctor(
    directories: tuple[Path, ...], do_flush: bool, do_clean: bool, region: str | None, strict: bool, as_json: bool
) -> None:
    """Say whether this machine has what stores need, and whose shared memory there is.

    Of each region: who has it, and what of it is not on disk. Without DIRECTORY it shows all regions of this user. It
    changes nothing unless told to, and waits for nobody.
    """
    from ..tiers.doctor import clean, flush, set_aside, survey
    from ..tiers.machine import examine_directory, examine_machine, worst

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
    machine = examine_machine()
    stores = {os.path.abspath(path): examine_directory(path) for path in directories}
    if as_json:
        found = {"machine": machine, "stores": stores, "regions": [report.to_dict() for report in reports]}
        print_json(found)
    else:
        _print_findings("this machine", machine)
        for path, findings in stores.items():
            _print_findings(path, findings)
        if not reports:
            click.echo("no shared regions: everything is on disk")
        for report in reports:
            _print(report)
    level = worst([*machine, *chain.from_iterable(stores.values())])
    if level == "problem" or (strict and level == "warning") or not all(report.ok for report in reports):
        sys.exit(EXIT_FAILED)


def _print_findings(title: str, findings: Sequence[Finding]) -> None:
    click.echo(f"{plain(title)}:")
    for finding in findings:
        click.echo(f"  {finding.level:<9}{finding.name:<15}{plain(finding.found)}")
        if finding.remedy:
            click.echo(f"  {'':<9}{'what to do':<15}{plain(finding.remedy)}")


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
