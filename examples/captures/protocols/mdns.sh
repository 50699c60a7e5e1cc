LABEL[mdns]=MDNS FILTER[mdns]='udp port 5353' NEEDS[mdns]='avahi-daemon avahi-utils dbus mdns-scan bind9-dnsutils'

# mdns_run HOST COMMAND...: with a D-Bus and an avahi of its own beside the command; the files of /etc/avahi that
# `ip netns exec` lays over the machine's make the host's name and services.
mdns_run() {
    local host=$1 etc=/etc/netns/$PREFIX-$1/avahi
    shift
    mkdir -p "$etc/services"
    printf '[server]\nhost-name=%s-%s\nuse-ipv4=yes\nuse-ipv6=yes\nallow-interfaces=eth0\n[rlimits]\n' "$host" "$RANDOM" >"$etc/avahi-daemon.conf"
    rm -f "$etc"/services/*
    mdns_service "$host" "$(one_of _http _ipp _ssh _smb _airplay _printer)._tcp" >"$etc/services/one.service"
    chance 50 || mdns_service "$host" "$(one_of _workstation _sftp-ssh _raop _googlecast)._tcp" >"$etc/services/two.service"
    cat >"$WORK/dbus.conf" <<CONF
<busconfig><listen>unix:path=/run/bus</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>
CONF
    (enter "$host" sh -c 'mount -t tmpfs tmpfs /run
        export DBUS_SYSTEM_BUS_ADDRESS=unix:path=/run/bus
        mkdir -p /run/avahi-daemon
        dbus-daemon --config-file="$0" --nofork --nopidfile & bus=$!
        sleep 0.3
        avahi-daemon --no-drop-root --no-chroot --no-rlimits & avahi=$!
        sleep 2
        "$@"
        kill $avahi; wait $avahi; kill $bus' "$WORK/dbus.conf" "$@")
}

mdns_service() {
    printf '<service-group><name replace-wildcards="yes">%s on %%h</name><service><type>%s</type><port>%d</port>' "$1" "$2" "$(between 80 9000)"
    printf '<txt-record>id=%s</txt-record><txt-record>note=%s</txt-record></service></service-group>\n' "$RANDOM" \
        "$(head -c "$(between 5 150)" "$WORK/files/700.txt" | tr -dc 0-9)"
}

mdns_serve() { mdns_run "$1" sleep 100000 >>"$WORK/log/avahi-$1.log" 2>&1 </dev/null & }

mdns_session() {
    case $(between 1 6) in
    1) mdns_run "$1" timeout 6 avahi-browse -at ;;
    2) mdns_run "$1" timeout 6 avahi-browse -rt "$(one_of _http _ssh _ipp)._tcp" ;;
    3) mdns_run "$1" timeout "$(between 2 5)" avahi-publish -s "note $RANDOM" _http._tcp "$(between 1024 9000)" "text=$RANDOM" ;;
    4) mdns_run "$1" timeout 5 avahi-resolve -n "$1-none.local" ;;
    5) on "$1" timeout "$(between 2 5)" mdns-scan ;;
    6) on "$1" dig +tries=1 +time=2 -p 5353 @224.0.0.251 "$(one_of _http._tcp.local _services._dns-sd._udp.local "$2.local")" "$(one_of PTR A ANY)" ;;
    esac
}
