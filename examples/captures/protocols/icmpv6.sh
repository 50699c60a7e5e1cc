# The second part: multicast listener reports, whose hop-by-hop header hides the protocol from `icmp6`.
LABEL[icmpv6]=ICMPV6 FILTER[icmpv6]='icmp6 or (ip6[6] == 0 and ip6[40] == 58)' NEEDS[icmpv6]='iputils-ping ndisc6 radvd'

icmpv6_serve() {
    cat >"$WORK/radvd-$1.conf" <<CONF
interface eth0 {
    AdvSendAdvert on;
    MinRtrAdvInterval 3;
    MaxRtrAdvInterval 9;
    AdvDefaultLifetime 0;
    prefix 2001:db8:77:$(one_of a b c)::/64 { AdvAutonomous off; };
    RDNSS $(v6 "$1") { };
};
CONF
    ip netns exec "$PREFIX-$1" sysctl -qw net.ipv6.conf.all.forwarding=1
    daemon "$1" radvd --nodaemon --logmethod stderr --config "$WORK/radvd-$1.conf" --pidfile "$WORK/radvd-$1.pid"
}

icmpv6_session() {
    sleep 1.5 # until the link-local address is the client's own
    case $(between 1 5) in
    1) on "$1" ping -n -c "$(between 1 10)" -i 0.4 "$(v6 "$2")" ;;
    2) on "$1" ping -n -c "$(between 1 5)" -i 0.2 -s "$(between 8 3000)" "$(v6 "$2")" ;;
    3) on "$1" ndisc6 -n -w 500 "$(v6 "$2")" eth0 ;;
    4) on "$1" rdisc6 -n -w 1000 -m eth0 ;;
    5) on "$1" ping -n -c 3 -i 0.5 ff02::1%eth0 ;;
    esac
}
