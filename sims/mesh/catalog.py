"""The scenes by name; each is imported when it is played."""

from collections.abc import Callable
from importlib import import_module

from fedcore.errors import ConfigError
from sims.mesh.scene import Case, Report, Scene, play

SCENES = {
    "register": "sims.mesh.scene_register:RegisterScene",
    "door": "sims.mesh.scene_door:DoorScene",
    "pulse": "sims.mesh.scene_pulse:PulseScene",
    "state": "sims.mesh.scene_state:StateScene",
    "lookup": "sims.mesh.scene_lookup:LookupScene",
    "swarm": "sims.mesh.scene_swarm:SwarmScene",
    "mesh": "sims.mesh.scene_mesh:MeshScene",
}


def maker(name: str) -> Callable[[], Scene]:
    """Return what makes the scene called ``name``.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in SCENES:
        raise ConfigError(f"no scene {name!r}: choose one of {', '.join(SCENES)}")
    module, _, attribute = SCENES[name].partition(":")
    make: Callable[[], Scene] = getattr(import_module(module), attribute)
    return make


def run_case(case: Case, *, lines: int = 0) -> Report:
    """Run ``case``; see ``sims.mesh.scene.play``."""
    return play(case, maker(case.scene), lines=lines)
