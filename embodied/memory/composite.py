"""Several memories as one, each under its own name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from embodied.core.errors import ConfigError
from embodied.core.types import State, Streams
from embodied.memory.base import Memory, Pending


class CompositeMemory(Memory):
    """Banks and layers that act as one memory; a part's state names get its name as prefix.

    Each part serves its own streams. Where parts share a stream they read one after the
    other in the order given: the value of one is the query of the next, and the last value
    is returned. Every part stores the item given to `write`. Streams that no part serves
    pass unchanged.

    Args:
      parts: Part name -> memory; names must not hold ".".

    Raises:
      ConfigError: Without parts, for a name with ".", or when parts disagree on a stream.
    """

    def __init__(self, parts: Mapping[str, Memory]) -> None:
        if not parts:
            raise ConfigError("a composite memory needs at least one part; use memory=none")
        streams: dict[str, tuple[int, int]] = {}
        for part, memory in parts.items():
            if "." in part:
                raise ConfigError(f"the part name {part!r} holds '.', which separates state names")
            for name, shape in memory.streams.items():
                if streams.setdefault(name, shape) != shape:
                    raise ConfigError(
                        f"part {part!r} expects stream {name!r} of shape {shape}, "
                        f"another part {streams[name]}; give both the same shape"
                    )
        super().__init__(streams, max(memory.capacity for memory in parts.values()))
        self.parts = nn.ModuleDict(parts)
        self.marks = any(memory.marks for memory in parts.values())  # type: ignore[misc]
        self.shared = sum(len(memory.streams) for memory in parts.values()) > len(streams)

    def initial(self, batch: int, capacity: int | None = None) -> State:
        """Returns the parts' empty states; `capacity` goes to every part."""
        return {
            f"{part}.{name}": tensor
            for part, memory in self._parts()
            for name, tensor in memory.initial(batch, capacity).items()
        }

    def read(
        self, query: Streams, time_s: Tensor, state: State, reset: Tensor
    ) -> tuple[Streams, Pending]:
        """Reads part by part."""
        value = dict(query)
        pending: Pending = {"reset": reset}
        for part, memory in self._parts():
            asked = _own(memory, value)
            found, kept = memory.read(asked, time_s, self.part_state(part, state), reset)
            value.update(found)
            pending[part] = kept
        return value, pending

    def write(self, pending: Pending, item: Streams, time_s: Tensor, state: State) -> State:
        """Stores the item in every part."""
        new: State = {}
        for part, memory in self._parts():
            own = _own(memory, item)
            written = memory.write(pending[part], own, time_s, self.part_state(part, state))
            new.update({f"{part}.{name}": tensor for name, tensor in written.items()})
        return new

    def unroll(
        self,
        items: Streams,
        time_s: Tensor,
        state: State,
        is_first: Tensor,
        valid: Tensor,
        read_mask: Tensor | None = None,
        item_of: Callable[[Streams, Streams], Streams] | None = None,
    ) -> tuple[Streams, State]:
        """Runs T ticks; each part by its own `unroll` where no part depends on another."""
        if self.shared or item_of is not None:
            return super().unroll(items, time_s, state, is_first, valid, read_mask, item_of)
        values, new = dict(items), {}
        for part, memory in self._parts():
            own = _own(memory, items)
            found, after = memory.unroll(
                own, time_s, self.part_state(part, state), is_first, valid, read_mask
            )
            values.update(found)
            new.update({f"{part}.{name}": tensor for name, tensor in after.items()})
        return values, new

    def clear(self, state: State, reset: Tensor) -> State:
        """Empties the rows in `reset` of every part."""
        return {
            f"{part}.{name}": tensor
            for part, memory in self._parts()
            for name, tensor in memory.clear(self.part_state(part, state), reset).items()
        }

    def capacity_of(self, state: State) -> int | None:
        """Returns the slots of the part with the most."""
        sizes = [memory.capacity_of(self.part_state(part, state)) for part, memory in self._parts()]
        return max((size for size in sizes if size is not None), default=None)

    def nbytes_filled(self, state: State) -> int:
        """Returns the sum over the parts."""
        return sum(
            memory.nbytes_filled(self.part_state(part, state)) for part, memory in self._parts()
        )

    def inspect(self, query: Streams, time_s: Tensor, state: State) -> dict[str, Tensor]:
        """Returns the parts' reports under their names, each read with the present as query."""
        return {
            f"{part}.{name}": tensor
            for part, memory in self._parts()
            for name, tensor in memory.inspect(
                _own(memory, query), time_s, self.part_state(part, state)
            ).items()
        }

    def part_state(self, part: str, state: State) -> State:
        """Returns the state of one part under its own names."""
        prefix = f"{part}."
        return {n[len(prefix) :]: t for n, t in state.items() if n.startswith(prefix)}

    def _parts(self) -> list[tuple[str, Memory]]:
        return list(self.parts.items())  # type: ignore[arg-type]


def _own(memory: Memory, streams: Streams) -> Streams:
    """Returns a part's streams, and what goes with them (`Memory.marks`) where it wants that."""
    own = {name: streams[name] for name in memory.streams}
    if memory.marks:
        own |= {key: x for key, x in streams.items() if key.rpartition(".")[0] in memory.streams}
    return own
