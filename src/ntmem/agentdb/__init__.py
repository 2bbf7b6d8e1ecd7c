"""AgentDB's HTTP wire: what is said on it, who serves it from a store, and who asks.

``docs/design/agentdb.md`` has the reasons.

=============== ===================================================================================
module          what it is
=============== ===================================================================================
``wire``        requests and answers, ids, names of collections; of msgspec alone
``wirefilters`` filters there, to and from those of :mod:`ntmem.filters`
``server``      answers them from a store; needs the extra ``agentdb-server``, as do its parts:
``gate``        who may ask, with which path
``service``     what the store says to a request, in threads
``answers``     what is allowed, refusals, JSON
``openapi``     says in OpenAPI 3.1 what the server takes and answers
``remote``      ``memory.vectors`` of a store with ``agentdb_url``: a server's, called as a store's
``documents``   reads the documents of servers, ntmem's and others
``client``      asks a server: tries, deadlines, what a refusal says; needs the extra ``agentdb``
``connections`` are urllib3's, with answers that are bounded in time and bytes
=============== ===================================================================================
"""
