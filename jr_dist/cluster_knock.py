"""Whether a Ray cluster answers at an address, and takes our token: asked before Ray itself is, which would print a
warning a second, wait for minutes, and tell neither from the other."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from jr_dist.errors import InputError

ALLOWED = (
    "allowed is auto or HOST:PORT of a running cluster, 6379 its usual port; start one with `ray up cluster.yaml` or "
    "`ray start --head`, or leave the setting out"
)
_LONGEST_ANSWER = 5.0
_PAUSE = 0.5


def knock(address: str, timeout: float) -> str:
    """The address, as HOST:PORT, at which a cluster has answered within `timeout` seconds.

    `address` is auto (the cluster that this machine belongs to) or HOST:PORT. Raises `InputError` where it is neither,
    where nobody answers in time, at once where the cluster refuses the token, and where what answers is no Ray.
    """
    import grpc
    from ray._private.authentication import authentication_token_setup as token
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import gcs_service_pb2
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub
    from ray.exceptions import AuthenticationError

    messages: Any = gcs_service_pb2  # whose names are made when it is imported

    place = _host_and_port(address)
    logging.getLogger(token.__name__).setLevel(logging.ERROR)  # it announces that a token is used
    enabled = bool(os.environ.get(token.AUTH_MODE_ENV_VAR))
    started = time.monotonic()
    while True:
        left = timeout - (time.monotonic() - started)
        try:
            # without the proxy that the environment may name, as Ray's own channels
            channel: Any = init_grpc_channel(place, [("grpc.enable_http_proxy", 0)])
            with channel:
                request = messages.GetClusterIdRequest()
                NodeInfoGcsServiceStub(channel).GetClusterId(request, timeout=min(_LONGEST_ANSWER, max(left, 0.1)))
                return place
        except grpc.RpcError as problem:
            error: Any = problem
            code, details = error.code(), " ".join((error.details() or "").split())[-160:]
        except AuthenticationError as missing:  # RAY_AUTH_MODE asks for a token, and none is there
            raise _wrong_token(address, str(missing).partition(".")[0]) from None
        if code == grpc.StatusCode.UNAUTHENTICATED:
            # Nobody said whether to use a token: one that lies there is tried now, and not before, since the processes
            # of a cluster that has none could not talk to one that asks for it.
            if not enabled and token.maybe_enable_token_auth_if_token_available(warn_if_disabled=False):
                enabled = True
                continue
            raise _wrong_token(address, details) from None
        left = timeout - (time.monotonic() - started)
        if left <= 0:
            raise InputError(
                f"setting cluster.address is {address}, where no Ray cluster answers within {timeout:g} s ({details}); "
                f"{ALLOWED}"
            )
        time.sleep(min(_PAUSE, left))


def _wrong_token(address: str, reason: str) -> InputError:
    return InputError(
        f"the Ray cluster at {address} refuses the token of this machine ({reason}); allowed is the token it was "
        "started with; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to it or put it into ~/.ray/auth_token"
    )


def _host_and_port(address: str) -> str:
    if address == "auto":
        from ray._private.services import find_bootstrap_address, find_gcs_addresses

        found = find_bootstrap_address(None) or next(iter(find_gcs_addresses()), None)
        if found is None:
            raise InputError(f"setting cluster.address is auto, but this machine belongs to no Ray cluster; {ALLOWED}")
        return str(found)
    if address.startswith("http"):
        raise InputError(
            f"setting cluster.address is {address}, where jobs are submitted to; allowed is auto or HOST:PORT; use "
            "`ray job submit`, or unset RAY_ADDRESS"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536 or "/" in host:
        raise InputError(f"setting cluster.address is {address}; {ALLOWED}")
    return address
