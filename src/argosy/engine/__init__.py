"""The engine: who runs, on which pages, in which arrays; one loop.

`scheduler`, `sequence`, `step`, `tables`, `pages`, `prefix` and `admission` import no array
library, do no I/O and read no clock.
"""
