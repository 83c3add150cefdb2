#!/bin/sh
# Sets the routes that unified-testing names in the environment, then becomes the test program.
set -eu

# A peer reaches the relay through its router, the relay both peers through theirs.
if [ -n "${WAN_SUBNET:-}" ]; then
    ip route add "$WAN_SUBNET" via "$WAN_ROUTER_IP" dev lan0
fi
if [ -n "${DIALER_LAN_SUBNET:-}" ]; then
    ip route add "$DIALER_LAN_SUBNET" via "$DIALER_ROUTER_IP" dev wan0
fi
if [ -n "${LISTENER_LAN_SUBNET:-}" ]; then
    ip route add "$LISTENER_LAN_SUBNET" via "$LISTENER_ROUTER_IP" dev wan0
fi

exec hole-punch
