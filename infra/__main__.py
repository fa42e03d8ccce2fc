"""The Pulumi program: a cluster on EC2 from its stack's configuration."""

import pulumi

from bootstrap.errors import LaunchError
from infra.program import main

try:
    main()
except LaunchError as error:
    # Pulumi prints a RunError without the stack trace.
    raise pulumi.RunError(str(error)) from None
