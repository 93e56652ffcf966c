"""A production line: parts come from a source, each gets one line in a journal, and sinks get what it says. No torch.

Three threads hand parts on through bounded queues: capture (`sources`, `intake`), inference and output (`inspecting`).
Every part is written down when it is taken and again when it has an outcome (`ledger`); each sink reads the journal at
its own speed (`courier`); `watchdog` keeps deadlines and the heartbeat; `line` puts them together.
"""
