"""What schemathesis has to know that the document cannot say."""

import schemathesis


@schemathesis.hook
def before_call(context, case, kwargs):
    """An export that follows goes on until its reader ends it: nothing to wait for here, in whichever phase it is asked for."""
    if isinstance(case.query, dict):
        case.query.pop("follow", None)
