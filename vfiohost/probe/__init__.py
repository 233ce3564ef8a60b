"""The evidence that a guest could use a device: do what a virtual machine monitor does, and close.

``probing`` is the way in and ``types`` is what comes of it; ``steps`` does the work, in a helper
process that ``helper`` starts and waits for; ``causes`` explains what went wrong.

Nothing is imported here: what the helper needs is half of all that, and it is started anew for
each way to each device.
"""
