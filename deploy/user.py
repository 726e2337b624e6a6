"""Make a user of an MLflow server with basic auth: ``python deploy/user.py NAME reader|editor``, as the server's administrator.

A reader sees all and writes nothing. An editor logs runs and models, and moves the alias ``champion``. The server and its
administrator are those of MLFLOW_TRACKING_URI, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD. The new password is
printed on standard output once, and nowhere else: ``umask 077; python deploy/user.py maria editor > maria.password``.
"""

import os
import secrets
import sys

ROLE = "editor"
GRANTS = {"experiment": "EDIT", "registered_model": "EDIT", "workspace": "USE"}


def main(name: str = "", kind: str = "") -> None:
    """Do what the command line asks."""
    if not name or kind not in ("reader", ROLE):
        sys.exit(f"error: say `python deploy/user.py NAME reader` or `python deploy/user.py NAME {ROLE}`")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.exceptions import MlflowException
    from mlflow.server.auth.client import AuthServiceClient

    client, password = AuthServiceClient(os.environ.get("MLFLOW_TRACKING_URI", "")), secrets.token_urlsafe(24)
    try:
        client.create_user(name, password)
        if kind == ROLE:
            found = [role for role in client.list_roles("default") if role.name == ROLE]
            role = found[0] if found else client.create_role("default", ROLE, "logs runs and models")
            held = {grant.resource_type for grant in client.list_role_permissions(role.id)}
            for resource, permission in GRANTS.items():
                if resource not in held:
                    client.add_role_permission(role.id, resource, "*", permission)
            client.assign_role(name, role.id)
    except MlflowException as error:
        sys.exit(f"error: {error.message}")
    print(password)


if __name__ == "__main__":
    main(*sys.argv[1:3])
