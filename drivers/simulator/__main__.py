"""`python -m drivers.simulator`: a simulated site as a process of its own.

One JSON line on stdout says that all listeners are up. The process ends on SIGTERM or SIGINT, or when its stdin
ends, so that it never outlives the process that started it; with `--detached` only signals end it.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from drivers.simulator.control import serve
from drivers.simulator.listeners import ListenError
from drivers.simulator.site import Site, SiteSpec


def main() -> int:
    """Run until told to stop; the exit status."""
    options = _parser().parse_args()
    try:
        spec = SiteSpec(
            machines=options.machines,
            seed=options.seed,
            speed=options.speed,
            fault_share=options.fault_share,
            noise=options.noise,
            network=options.network,
        )
    except ValueError as error:
        return _fail(str(error), 2)
    try:
        asyncio.run(_run(spec, options.control, detached=options.detached))
    except (ListenError, OSError) as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt:
        return 0
    return 0


def _parser() -> argparse.ArgumentParser:
    defaults = SiteSpec()
    parser = argparse.ArgumentParser(
        prog="python -m drivers.simulator", description="A simulated mining site."
    )
    parser.add_argument("--machines", type=int, default=defaults.machines)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--speed", type=float, default=defaults.speed, help="simulated seconds per second")
    parser.add_argument(
        "--fault-share", type=float, default=defaults.fault_share, help="0..1, one fault each"
    )
    parser.add_argument("--noise", type=float, default=defaults.noise, help="relative, of the 5-second rate")
    parser.add_argument("--network", default=defaults.network, help="within 127.0.0.0/8")
    parser.add_argument("--control", type=Path, help="path of the control socket")
    parser.add_argument("--detached", action="store_true", help="do not end with stdin")
    return parser


def _fail(message: str, status: int) -> int:
    sys.stderr.write(f"drivers.simulator: {message}\n")
    return status


async def _run(spec: SiteSpec, control: Path | None, *, detached: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if not detached:
        _stop_with_stdin(loop, stop)
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(Site(spec))
        if control is not None:
            await stack.enter_async_context(serve(site, control))
        _announce(site)
        await stop.wait()


def _stop_with_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    def readable() -> None:
        with suppress(OSError):
            if os.read(0, 4096):
                return
        loop.remove_reader(0)
        stop.set()

    try:
        loop.add_reader(0, readable)
    except PermissionError:  # a file or /dev/null, which epoll does not watch: it has ended already
        stop.set()


def _announce(site: Site) -> None:
    clock = site.clock
    ready = {
        "ready": True,
        "scan_targets": site.scan_targets,
        "machines": len(site.machines),
        "left_out": list(site.left_out),
        "sim_utc": clock.utc().isoformat(),
        "monotonic": clock.monotonic(),
        "speed": clock.speed,
    }
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
