"""What an agent sees of Playground-Text, as small integers.

Shapes: O object slots, I inventory places, H commands remembered.
"""

import flax.struct
import jax


@flax.struct.dataclass
class Observation:
    """Everything the prompt and the admissible commands are made from.

    Attributes:
      names: int16 [O], name id of the object in each slot, -1 for an empty slot.
        The name id is `(type * colours + colour) * 2 + grown`.
      held: int8 [I], slots in the inventory in the order shown, -1 for none.
      on: bool [O], objects the agent stands on (never held ones).
      goal: int16 [2], single-goal ids; the second is -1 unless the goal is a
        sequence ("first then second").
      history: int16 [H], command ids carried out so far, oldest first, -1 before
        the first. Command ids: 0 "Grasp", 1 "Release all", 2 + name "Go to name",
        2 + number of names + name "Release name".
    """

    names: jax.Array
    held: jax.Array
    on: jax.Array
    goal: jax.Array
    history: jax.Array
