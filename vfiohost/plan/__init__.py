"""Pure planners: a snapshot and a request in, a plan or all refusals out."""
