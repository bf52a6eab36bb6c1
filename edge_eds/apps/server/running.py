"""Runs the server from a free port to the last answer.

The port is taken before the model is loaded, so that a port in use is told at once; connections are taken after it.
SIGTERM and Ctrl-C finish what runs and refuse the rest; a second Ctrl-C ends it between two tokens.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from edge_eds.apps.files import check_writable, write_text
from edge_eds.apps.llama_log import explained
from edge_eds.apps.server.app import Desk, create_app
from edge_eds.apps.server.metrics import Metrics
from edge_eds.apps.server.service import Service
from edge_eds.apps.server.settings import ServerSettings
from edge_eds.apps.server.worker import Worker
from edge_eds.apps.session import check_chat_format, check_files, default_ctx, find_energies
from edge_eds.apps.settings import SessionOptions
from edge_eds.energy.file import ENERGY_SUFFIX, EnergyFile
from edge_eds.errors import InputError
from edge_eds.runtime.energies import ModelFiles, energy_name
from edge_eds.runtime.slots import Slots

_BACKLOG = 128
_LAST_BYTES_SECONDS = 2.0  # for what is on its way to clients when all answers are made


class _Server(uvicorn.Server):
    """uvicorn, which tells the desk when it is to stop, and waits for answers but not for clients that read none."""

    def __init__(self, config: uvicorn.Config, desk: Desk, worker: Worker) -> None:
        super().__init__(config)
        self._desk, self._worker = desk, worker

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._desk.draining and sig == signal.SIGINT:
            self._desk.cancel()
            return
        self._desk.draining = True
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._worker.drain()
        leaving = asyncio.ensure_future(self._leave_who_stalls())
        try:
            await super().shutdown(sockets)
        finally:
            leaving.cancel()

    async def _leave_who_stalls(self) -> None:
        while self._desk.is_busy:
            await asyncio.sleep(0.1)
        await asyncio.sleep(_LAST_BYTES_SECONDS)
        self.force_exit = True


def serve(options: SessionOptions, settings: ServerSettings) -> None:
    """Serve until SIGTERM, or Ctrl-C.

    Raises:
        EdgeError: the port, the model or its energies cannot be had.
        KeyboardInterrupt: Ctrl-C, when all is finished.
    """
    if settings.port_file is not None:
        check_writable(settings.port_file)
    with _taken(settings) as listener:
        files = options.files()
        slots = open_slots(options, files, settings.parallel)
        metrics = Metrics()
        worker = Worker(slots, metrics)
        try:
            name = settings.alias or energy_name(files.gguf, files.lora).removesuffix(ENERGY_SUFFIX)
            strength = 1.0 if options.strength is None else options.strength
            steerable = slots.session.energy_file is not None
            service = Service(worker, name, strength if steerable else 0.0, settings)
            _run(listener, service, worker, settings, metrics)
        finally:
            worker.close()


def open_slots(options: SessionOptions, files: ModelFiles, n_parallel: int) -> Slots:
    """Load the model with its energies.

    Raises:
        EdgeError: one line that says what is in the way.
    """
    header = check_files(files)
    check_chat_format(header, options.chat_format)
    energy = find_energies(options, files)
    with explained():
        slots = Slots(
            files,
            n_parallel=n_parallel,
            n_ctx=options.ctx or default_ctx(header),
            n_threads=options.threads,
            energy=None if energy is None else EnergyFile.load(energy),
            chat_format=options.chat_format,
        )
    slots.session.chat_handler_in_use()  # an unknown --chat-format is told here, not with the first request
    return slots


def _run(listener: socket.socket, service: Service, worker: Worker, settings: ServerSettings, metrics: Metrics) -> None:
    app, desk = create_app(service, settings, metrics)
    config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False, lifespan="off")
    server = _Server(config, desk, worker)
    with _log_to_stderr() as log, _port_file(listener, settings):
        log.info("%s is served at %s", service.name, _address(listener))
        if settings.api_key is None and not settings.is_local:
            log.warning("there is no --api-key: whoever reaches this address can use the model")
        # uvicorn raises a signal again when it is done, for whoever had its handler before.
        before = signal.signal(signal.SIGTERM, lambda number, frame: None)
        try:
            server.run(sockets=[listener])
        finally:
            signal.signal(signal.SIGTERM, before)
            desk.close()
            log.info("stopped")


@contextmanager
def _taken(settings: ServerSettings) -> Iterator[socket.socket]:
    """The port, taken and not listening yet."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, proto)
    except OSError as error:
        raise InputError(
            f"--host {settings.host}: {error.strerror or error}; expected an address of this machine"
        ) from error
    with listener:
        try:
            if sys.platform != "win32":  # there it would let two servers have one port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError as error:
            raise _port_error(settings, error) from error
        yield listener


@contextmanager
def _port_file(listener: socket.socket, settings: ServerSettings) -> Iterator[None]:
    """Listen, and say where in the file that was asked for; it is gone when the server is."""
    try:
        listener.listen(_BACKLOG)
    except OSError as error:
        raise _port_error(settings, error) from error
    if settings.port_file is None:
        yield
        return
    write_text(settings.port_file, f"{listener.getsockname()[1]}\n")
    try:
        yield
    finally:
        settings.port_file.unlink(missing_ok=True)


def _port_error(settings: ServerSettings, error: OSError) -> InputError:
    return InputError(
        f"port {settings.port} of {settings.host} cannot be had: {error.strerror or error}; "
        "choose another with --port, or --port 0 for any that is free"
    )


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _log_to_stderr() -> Iterator[logging.Logger]:
    """The log of this server and of uvicorn, a line for each thing that happened."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    ours, theirs = logging.getLogger("edge_eds.server"), logging.getLogger("uvicorn.error")
    before = [(logger, logger.level) for logger in (ours, theirs)]
    ours.setLevel(logging.INFO)
    theirs.setLevel(logging.WARNING)
    for logger, _ in before:
        logger.addHandler(handler)
    try:
        yield ours
    finally:
        for logger, level in before:
            logger.removeHandler(handler)
            logger.setLevel(level)
