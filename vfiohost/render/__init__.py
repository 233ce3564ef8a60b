"""Values to text and to JSON values. Prints nothing, reads nothing, decides nothing.

``table``: columns and colours; ``listing``: devices, groups and mediated devices as tables;
``plans``: plans, refusals and reports as text; ``values``: everything as JSON values, in the words
of ``schema.json``; ``failures``: errors as text and as JSON values. Each module imports only what
it shows, so that ``vfiohost list`` does not pay for plans.
"""
