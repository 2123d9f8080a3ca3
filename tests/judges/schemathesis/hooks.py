"""What schemathesis has to know that the document cannot say, and what it keeps to itself."""

import sys

import schemathesis


@schemathesis.hook
def before_call(context, case, kwargs):
    """An export that follows goes on until its reader ends it: nothing to wait for here, in whichever phase it is asked for."""
    if isinstance(case.query, dict):
        case.query.pop("follow", None)


@schemathesis.hook
def after_network_error(context, case, request):
    """Its summary counts requests without an answer and does not say which they were."""
    print("no answer:", request.method, request.url, file=sys.stderr, flush=True)
