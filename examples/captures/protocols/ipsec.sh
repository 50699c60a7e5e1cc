LABEL[ipsec]=IPSec FILTER[ipsec]='udp port 500 or udp port 4500 or ip proto 50' NEEDS[ipsec]='strongswan-charon strongswan-swanctl libstrongswan-standard-plugins libcharon-extra-plugins'

# charon HOST...: the IKE daemon with ESP in user space (no kernel support needed), in UDP as behind a NAT.
ipsec_charon() {
    local host=$1 dir=$WORK/ipsec-$1
    mkdir -p "$dir/swanctl"
    cat >"$dir/strongswan.conf" <<CONF
charon {
    load = random nonce openssl kdf kernel-libipsec kernel-netlink socket-default vici updown
    retransmit_timeout = 1
    install_virtual_ip = no
    plugins { vici { socket = unix://$dir/vici } kernel-libipsec { allow_peer_ts = yes } }
    filelog { stderr { default = 1 } }
}
CONF
    STRONGSWAN_CONF=$dir/strongswan.conf daemon "$host" /usr/lib/ipsec/charon
}

# ipsec_conf HOST LOCAL REMOTE LINES: the one connection.
ipsec_conf() {
    cat >"$WORK/ipsec-$1/swanctl.conf" <<CONF
connections {
    lab {
        version = 2
        local_addrs = $2
        remote_addrs = $3
        encap = yes
        proposals = aes128-sha256-modp2048,aes256-sha384-ecp256
        local { auth = psk
            id = $1.example }
        remote { auth = psk }
        children { tunnel { esp_proposals = aes128-sha256
            $4 } }
    }
}
secrets { ike { secret = a-shared-secret } }
CONF
    STRONGSWAN_CONF=$WORK/ipsec-$1/strongswan.conf on "$1" swanctl --load-all --uri "unix://$WORK/ipsec-$1/vici" \
        --file "$WORK/ipsec-$1/swanctl.conf" >>"$WORK/log/swanctl.log" 2>&1
}

ipsec_serve() {
    ip -n "$PREFIX-$1" addr add "10.99.$(v4 "$1" | cut -d. -f4).1/32" dev lo
    ipsec_charon "$1"
    sleep 1
    ipsec_conf "$1" "$(v4 "$1")" %any "local_ts = 10.99.0.0/16
            remote_ts = 10.98.0.0/16"
}

ipsec_session() {
    local me inside uri
    me=$(ip -n "$PREFIX-$1" -4 -o addr show dev eth0 | awk '{sub("/.*", "", $4); print $4; exit}')
    inside=10.98.${me#10.77.}
    ip -n "$PREFIX-$1" addr add "${inside%.*}.${me##*.}/32" dev lo
    (
        ipsec_charon "$1"
        sleep 0.7
        ipsec_conf "$1" "$me" "$(v4 "$2")" "local_ts = 10.98.0.0/16
            remote_ts = 10.99.0.0/16"
        uri=unix://$WORK/ipsec-$1/vici
        on "$1" swanctl --initiate --child tunnel --timeout 8 --uri "$uri"
        think 100 700
        on "$1" ping -n -c "$(between 1 12)" -i "$(one_of 0.1 0.3)" -s "$(between 20 1200)" "10.99.$(v4 "$2" | cut -d. -f4).1"
        ! chance 40 || on "$1" swanctl --rekey --child tunnel --uri "$uri"
        think 100 700
        ! chance 70 || on "$1" swanctl --terminate --ike lab --timeout 3 --uri "$uri"
        ip netns pids "$PREFIX-$1" | xargs -r ps -o pid=,comm= -p | awk '$2 == "charon" {print $1}' | xargs -r kill
        wait
    )
    ip -n "$PREFIX-$1" addr flush dev lo scope global
}
