"""Prints what TensorBoard's own reader finds in a folder of event files: python read_events.py DIR

Needs the package `tensorboard`. One line per point: tag, step, value.
"""

import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

accumulator = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0})
accumulator.Reload()
for tag in sorted(accumulator.Tags()["scalars"]):
    for event in accumulator.Scalars(tag):
        print(tag, event.step, event.value)
