LABEL[dns]=DNS FILTER[dns]='port 53' NEEDS[dns]='dnsmasq-base bind9-dnsutils'

dns_serve() {
    local i hosts=$WORK/dns.hosts
    for i in {1..60}; do
        echo "10.77.20.$i host$i.$(one_of example lab.example eu-west.compute.example)"
        echo "2001:db8:77:20::$i host$i.example"
    done >"$hosts"
    daemon "$1" dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --addn-hosts="$hosts" \
        --user=root --local=/example/ --edns-packet-max=4096 \
        --cname=www.example,host1.example --cname=cdn.example,host2.example \
        --mx-host=example,host3.example,10 --mx-host=example,host4.example,20 \
        --srv-host=_sip._tcp.example,host5.example,5060 --ptr-record=1.20.77.10.in-addr.arpa,host1.example \
        --txt-record=example,"v=spf1 ip4:10.77.20.0/24 -all" \
        --txt-record=big.example,"$(printf 'k=rsa; p=%0200d' 7)","$(printf '%0230d' 8)","$(printf '%0220d' 9)"
}

dns_session() {
    local name server
    server=$(address "$2")
    for _ in $(seq "$(between 1 4)"); do
        name=$(one_of www. cdn. "host$(between 1 60)." "no-such-name-$RANDOM." "a-rather-long-name-of-a-host-$RANDOM.")example
        case $(between 1 8) in
        1 | 2) on "$1" getent ahosts "$name" ;; # the C library: A and AAAA from one socket
        3) on "$1" dig +short +nocookie "@$server" "$name" "$(one_of A AAAA HTTPS)" ;;
        4) on "$1" dig "@$server" "$name" "$(one_of A AAAA ANY SRV)" ;;
        5) on "$1" dig +tcp "@$server" big.example TXT ;;
        6) on "$1" dig "@$server" "$(one_of "big.example TXT" "example MX" "example TXT" "_sip._tcp.example SRV")" ;;
        7) on "$1" host "$name" "$server" ;;
        8) on "$1" dig +short "@$server" -x "10.77.20.$(between 1 60)" ;;
        esac
        think 20 600
    done
}
