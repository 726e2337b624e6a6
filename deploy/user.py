"""Make a user of an MLflow server with basic auth: ``python deploy/user.py NAME reader|editor``, as the server's administrator.

A reader sees all and writes nothing. An editor logs runs and models, and moves the alias ``champion``. The server and its
administrator are those of MLFLOW_TRACKING_URI, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD. The new password is
printed on standard output once, and nowhere else: ``umask 077; python deploy/user.py maria editor > maria.password``.
"""

import os
import secrets
import sys
import warnings

ROLE = "editor"
GRANTS = {"experiment": "EDIT", "registered_model": "EDIT", "workspace": "USE"}


def main(name: str = "", kind: str = "") -> None:
    """Do what the command line asks."""
    if not name or kind not in ("reader", ROLE):
        sys.exit(f"error: say `python deploy/user.py NAME reader` or `python deploy/user.py NAME {ROLE}`")
    if not (server := os.environ.get("MLFLOW_TRACKING_URI", "")).startswith("http"):
        sys.exit("error: MLFLOW_TRACKING_URI names no server; set it and the administrator's name and password")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # MLflow asks a server that is down for minutes
    warnings.simplefilter("ignore")  # of the server's own packages
    from mlflow.exceptions import MlflowException
    from mlflow.server.auth.client import AuthServiceClient

    client, password, role = AuthServiceClient(server), secrets.token_urlsafe(24), None
    try:
        if kind == ROLE:  # before the user, who else would be there without a role where this fails
            role = next((role for role in client.list_roles("default") if role.name == ROLE), None)
            role = role or client.create_role("default", ROLE, "logs runs and models")
            held = {grant.resource_type for grant in client.list_role_permissions(role.id)}
            for resource in GRANTS.keys() - held:
                client.add_role_permission(role.id, resource, "*", GRANTS[resource])
        client.create_user(name, password)
        if role:
            client.assign_role(name, role.id)
    except MlflowException as error:
        # The other lines of a server's answer may have what it asked its database, with the hash of the password.
        is_there = error.error_code == "RESOURCE_ALREADY_EXISTS"
        sys.exit(f"error: there is a user {name} already" if is_there else f"error: {error.message.splitlines()[0]}")
    print(password)


if __name__ == "__main__":
    main(*sys.argv[1:3])
