"""HTTP routes, by what they are about."""

from api.routes import about, past, people, stream, threads, turns

ROUTES = (
    turns.invoke,
    turns.start_turn,
    turns.cancel_turn,
    turns.retry_turn,
    people.list_approvals,
    people.decide_approval,
    people.fork_thread,
    threads.open_thread,
    threads.update_values,
    threads.list_threads,
    threads.show_thread,
    past.show_state,
    past.list_messages,
    past.list_events,
    past.show_diff,
    stream.stream_thread,
    about.list_graphs,
    about.show_graph,
    about.list_workers,
    about.live,
    about.ready,
)
