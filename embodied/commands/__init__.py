"""One small module a verb: reading arguments and printing; the work is done elsewhere."""

VERBS = {
    "demo": "see memory work: collect, train with and without memory, compare, report",
    "doctor": "check Python, packages, rendering, threads, GPU and disk",
    "list": "show tasks with levels and ceilings, policies, memories, presets, claims",
    "play": "watch the expert, a policy or your keyboard on a task; writes a video",
    "collect": "record expert demonstrations of a task into a dataset",
    "data": "show, check or re-render a dataset",
    "train": "train a policy from datasets",
    "evaluate": "run a checkpoint on fresh episodes and write a report",
    "benchmark": "train and evaluate memories on a suite of tasks, and compare them in a table",
    "export": "write a bundle that a controller runs without torch, and prove that it is equal",
    "serve": "answer observations over a websocket, one memory for each client",
    "robot": "run a simulated robot in a process of its own, in real time",
    "deploy": "let a bundle drive a robot in real time, with limits, a watchdog and a log",
    "verify": "replay episodes of a published claim and compare outcomes",
    "certify": "prove that a task cannot be solved without memory",
}
"""Verb -> one line of help; the module is ``embodied.commands.<verb>``."""
