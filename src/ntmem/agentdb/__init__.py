"""AgentDB's HTTP wire: what is said on it, and who serves it from a store. ``docs/design/agentdb.md`` has the reasons.

=============== ===================================================================================
module          what it is
=============== ===================================================================================
``wire``        requests and answers, ids, names of collections, filters; of msgspec alone
``server``      answers them from a store; needs the extra ``agentdb-server``
``openapi``     says in OpenAPI 3.1 what the server takes and answers
=============== ===================================================================================
"""
