"""The thread, an event-sourced aggregate: events, commands, state, `decide`, `evolve`, and their JSON codec."""
