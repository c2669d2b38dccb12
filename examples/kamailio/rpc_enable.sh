#!/bin/sh
# "sipdump.enable usage": query, switch on, switch off. The first argument is the control socket.
set -eu
socket=${1:-unix:/run/sipdump/ctl}
kamcmd -s "$socket" sipdump.enable
kamcmd -s "$socket" sipdump.enable 1
kamcmd -s "$socket" sipdump.enable 0
