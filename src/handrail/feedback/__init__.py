"""What people say: a store that loses nothing, a web app to say it in, and what is known of its quality.

    kinds      the kinds of feedback: what is asked, what is answered, what records it becomes
    store      projects, tasks, items, people, leases, labels: append-only events in SQLite or PostgreSQL
    quality    agreement between labellers, how reliable each is, what looks wrong
    formats    exports that others read
    server     the web app: API and pages
    client     the typed client of the API

Nothing here imports torch.
"""
