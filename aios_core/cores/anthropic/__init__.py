"""Claude as a core, over Anthropic's Messages API.

    core            `AnthropicCore`, loaded on first use because it needs the package `anthropic`
    wire            write requests as JSON bodies
    turns           translate messages to the turns of the API
    blocks          translate parts of a message to content blocks: text, images, documents
    answer_format   the ways to constrain an answer to JSON
    prompt_cache    place the breakpoints of the prompt cache
    model_limits    the limits of each model, as reported and as learned from refusals
    client_library  the HTTP library of the installed client
    events          translate the events of an answer to deltas

Importing this package imports no client library.
"""
