"""Doctor: what the Docker engine on this host says: NVIDIA runtime, image, services.

Asked on the host alone, through the Docker SDK: no container of ours is given the engine's socket.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from runner.doctor.finding import Finding, Level
from runner.words import visible

TITLE = "org.opencontainers.image.title=finetuning-box"
"""The label of the project's image, which its containers inherit."""
_SERVICE = "com.docker.compose.service"
_LIMIT_SECONDS = 20  # for each question to the engine
_WHY = "`docker compose up` runs the box in it; `runner watch` by itself does without."
_WHY_GPU = "The engine gives the runner's container its card through NVIDIA's toolkit."
_TOOLKIT = (
    "sudo apt install nvidia-container-toolkit\n"
    "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"
)
_REFUSALS: tuple[tuple[str, str, str], ...] = (
    ("could not select device driver", "The NVIDIA container toolkit is not set up", _TOOLKIT),
    (
        "driver/library version mismatch",
        "The NVIDIA driver was updated while the old one still runs",
        "sudo reboot",
    ),
    (
        "driver not loaded",
        "The NVIDIA driver is not loaded",
        "sudo modprobe nvidia || sudo apt install nvidia-driver-580    # then: sudo reboot",
    ),
    (
        "libnvidia-ml.so",
        "The NVIDIA driver is not installed, or not whole",
        "sudo apt install nvidia-driver-580 && sudo reboot",
    ),
    (
        "unresolvable CDI devices",
        "The toolkit's list of devices is missing or old",
        "sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml",
    ),
    ("unknown device", "GPU in .env names a card that is not there", "nvidia-smi -L"),
)
"""What the engine says when it cannot give a container a card → what it means, the fix."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """One container of the box."""

    name: str
    """The service's name in compose.yaml."""
    state: str
    """As the engine says: running, exited, restarting …"""
    health: str | None = None
    """healthy, unhealthy, starting; None: it has no check."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What there is."""

    version: str | None = None
    """None: no engine answered."""
    problem: str = ""
    """Why none did: ``absent``, ``denied`` or what it said."""
    card_on_host: bool = False
    nvidia_runtime: bool = False
    """The engine was told of NVIDIA's runtime, or knows its devices by CDI."""
    gpu_refused: str | None = None
    """What it said when a container was to be given a card; empty: it was; None: not tried."""
    image: str | None = None
    """The project's newest image."""
    services: tuple[Service, ...] = ()


def ask_engine(*, card_on_host: bool) -> Engine:
    """Ask the engine that the environment names."""
    import docker  # noqa: PLC0415  only here, and not in the daemon
    from docker.errors import DockerException  # noqa: PLC0415

    try:
        client = docker.from_env(timeout=_LIMIT_SECONDS)
    except DockerException as error:
        return Engine(problem=_why_none(error), card_on_host=card_on_host)
    try:
        client.ping()
        info = client.info()
        images = client.images.list(filters={"label": TITLE})
        image = (images[0].tags or [images[0].short_id])[0] if images else None
        services = _services(client)
        refused = None
        if card_on_host and image and not any(_runs(service) for service in services):
            refused = _try_gpu(client, image)
        return Engine(
            version=str(info.get("ServerVersion", "?")),
            card_on_host=card_on_host,
            nvidia_runtime=_knows_nvidia(info),
            gpu_refused=refused,
            image=image,
            services=services,
        )
    except (DockerException, OSError) as error:  # requests' errors are OSErrors
        return Engine(problem=_why_none(error), card_on_host=card_on_host)
    finally:
        with contextlib.suppress(Exception):  # closing must not hide what was found
            client.close()


def _why_none(error: BaseException) -> str:
    text = str(error)
    if "FileNotFoundError" in text or "No such file" in text:
        return "absent"
    if "PermissionError" in text or "Permission denied" in text:
        return "denied"
    return (text.splitlines() or [type(error).__name__])[0]


def _knows_nvidia(info: dict[str, Any]) -> bool:
    devices = info.get("DiscoveredDevices") or []
    return "nvidia" in (info.get("Runtimes") or {}) or any(
        str(device.get("ID", "")).startswith("nvidia.com/gpu") for device in devices
    )


def _services(client: Any) -> tuple[Service, ...]:
    found = []
    for entry in client.api.containers(all=True, filters={"label": TITLE}):
        status = str(entry.get("Status", ""))
        health = next(
            (word for word in ("unhealthy", "healthy", "starting") if f"({word}" in status), None
        )
        if "(health: starting" in status:
            health = "starting"
        name = entry.get("Labels", {}).get(_SERVICE)
        if name:
            found.append(Service(name=name, state=str(entry.get("State", "?")), health=health))
    return tuple(found)


def _runs(service: Service) -> bool:
    return service.name == "runner" and service.state == "running"


def _try_gpu(client: Any, image: str) -> str:
    """Start a container that does nothing, with a card; give what the engine says to that."""
    from docker.errors import APIError  # noqa: PLC0415
    from docker.types import DeviceRequest  # noqa: PLC0415

    container = client.containers.create(
        image,
        entrypoint=["true"],
        command=[],
        network_mode="none",
        device_requests=[DeviceRequest(count=1, capabilities=[["gpu"]])],
    )
    try:
        container.start()
        container.wait()
        return ""
    except APIError as error:
        return str(error.explanation or error)
    finally:
        container.remove(force=True)


def judge_engine(facts: Engine) -> list[Finding]:
    """Decide whether `docker compose up` would work, and whether it has."""
    if facts.version is None:
        return [_judge_absence(facts.problem)]
    found = [Finding(check="Docker", level=Level.OK, what=f"Engine {facts.version}.", why=_WHY)]
    if facts.card_on_host:
        found.append(_judge_gpu(facts))
    if facts.image is None:
        what = "The box's image is not built yet."
        return [*found, _docker(Level.ADVICE, what, "docker compose up -d    # in this folder")]
    return [*found, _judge_services(facts)]


def _judge_absence(problem: str) -> Finding:
    if problem == "absent":
        return _docker(Level.SKIPPED, "No Docker engine runs here.")
    if problem == "denied":
        return _docker(
            Level.ADVICE,
            "A Docker engine runs here, and this user may not ask it.",
            "sudo usermod -aG docker $USER    # then log out and in again",
        )
    return _docker(
        Level.ADVICE,
        f"The Docker engine does not answer: {visible(problem)}.",
        "sudo systemctl start docker",
    )


def _judge_gpu(facts: Engine) -> Finding:
    def finding(level: Level, what: str, fix: str = "") -> Finding:
        return Finding(check="Docker's GPU", level=level, what=what, why=_WHY_GPU, fix=fix)

    blocking = Level.TROUBLE if facts.image else Level.ADVICE
    if facts.gpu_refused:
        for said, means, fix in _REFUSALS:
            if said in facts.gpu_refused:
                return finding(blocking, f"{means}.", fix)
        said = visible(facts.gpu_refused.splitlines()[0])
        return finding(blocking, f"A container was refused its card: {said}", _TOOLKIT)
    if facts.gpu_refused == "":
        return finding(Level.OK, "A container was given a card, to try it.")
    if facts.nvidia_runtime:
        return finding(Level.OK, "The engine knows NVIDIA's runtime.")
    return finding(blocking, "The engine does not know NVIDIA's runtime.", _TOOLKIT)


def _judge_services(facts: Engine) -> Finding:
    runner = next((service for service in facts.services if service.name == "runner"), None)
    logs = "docker compose logs --tail 50 runner"
    if runner is None:
        what = f"{facts.image} is built, and its runner was never started."
        return _docker(Level.ADVICE, what, "docker compose up -d    # in this folder")
    if runner.state == "running" and runner.health != "unhealthy":
        how = {"starting": "is starting", "healthy": "is healthy"}.get(runner.health or "", "runs")
        return _docker(Level.OK, f"The runner of {facts.image} {how}.")
    if runner.state == "running":
        return _docker(
            Level.TROUBLE,
            "The runner is unhealthy.",
            f"docker compose exec runner runner health    # why; more: {logs}",
        )
    if runner.state == "restarting":
        return _docker(Level.TROUBLE, "The runner ends and is restarted again and again.", logs)
    return _docker(
        Level.ADVICE,
        f"The runner is not running ({runner.state}): nobody looks at jobs/.",
        f"docker compose up -d    # why it ended: {logs}",
    )


def _docker(level: Level, what: str, fix: str = "") -> Finding:
    return Finding(check="Docker", level=level, what=what, why=_WHY, fix=fix)


def examine_engine(*, card_on_host: bool) -> list[Finding]:
    """Ask the engine and judge."""
    return judge_engine(ask_engine(card_on_host=card_on_host))
