"""A thread as an event-sourced aggregate: events, commands, state, `decide` and `evolve`, and their JSON."""
