LABEL[dhcp]=DHCP FILTER[dhcp]='udp port 67 or udp port 68' NEEDS[dhcp]='dnsmasq-base udhcpc isc-dhcp-client'

# One server for the whole broadcast domain.
dhcp_serve() {
    [ "$1" = near ] || return 0
    daemon near dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 --user=root --dhcp-authoritative --no-ping \
        --dhcp-range=10.77.9.1,10.77.9.250,255.255.0.0,2m --dhcp-leasefile="$WORK/dhcp.leases" \
        --dhcp-option=option:domain-search,example,lab.example --dhcp-option=option:ntp-server,10.77.0.11
    # What udhcpc calls when it has or loses a lease.
    cat >"$WORK/dhcp-event" <<'EVENT'
#!/bin/sh
[ "$1" = bound ] && ip addr add "$ip/16" brd + dev "$interface"
exit 0
EVENT
    chmod +x "$WORK/dhcp-event"
}

dhcp_session() {
    local pid
    if chance 70; then
        on "$1" udhcpc -f -i eth0 -s "$WORK/dhcp-event" -x "hostname:client$RANDOM" &
        sleep 2.5
        # SIGUSR1 renews the lease, SIGUSR2 gives it back.
        for signal in $(one_of USR1 "USR1 USR1" "USR1 USR2" USR2); do
            pid=$(ip netns pids "$PREFIX-$1" | xargs -r ps -o pid=,comm= -p | awk '$2 == "udhcpc" {print $1}')
            [ -z "$pid" ] || kill -"$signal" "$pid"
            think 800 2000
        done
        [ -z "$pid" ] || kill "$pid"
        wait $!
    else
        on "$1" dhclient -1 -d -sf /bin/true -lf "$WORK/$1.leases" -pf "$WORK/$1.dhclient" eth0 &
        sleep 4
        on "$1" dhclient -r -sf /bin/true -lf "$WORK/$1.leases" -pf "$WORK/$1.dhclient" eth0
        wait $!
    fi
}
