"""HTTP routes, by what they are about."""

from api.routes import about, feed, people, stream, threads, turns

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
    threads.show_state,
    threads.list_messages,
    threads.list_events,
    stream.stream_thread,
    feed.read_feed,
    about.list_graphs,
    about.show_graph,
    about.list_workers,
    about.live,
    about.ready,
)
