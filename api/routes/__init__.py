"""HTTP routes, by what they are about."""

from api.routes import about, threads, turns

ROUTES = (
    turns.invoke,
    turns.start_turn,
    threads.open_thread,
    threads.update_values,
    threads.list_threads,
    threads.show_thread,
    threads.show_state,
    threads.list_messages,
    threads.list_events,
    about.list_graphs,
    about.show_graph,
    about.live,
    about.ready,
)
