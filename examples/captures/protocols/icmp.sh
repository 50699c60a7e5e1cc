LABEL[icmp]=ICMP FILTER[icmp]='icmp' NEEDS[icmp]='iputils-ping traceroute bind9-dnsutils'

icmp_serve() { :; }

icmp_session() {
    case $(between 1 6) in
    1 | 2) on "$1" ping -n -c "$(between 1 12)" -i "$(one_of 0.2 0.5 1)" "$(v4 "$2")" ;;
    3) on "$1" ping -n -c "$(between 1 6)" -i 0.3 -s "$(between 8 4000)" "$(v4 "$2")" ;;
    4) on "$1" ping -n -c "$(between 10 40)" -i 0.01 "$(v4 "$2")" ;;
    5) on "$1" traceroute -n -q "$(between 1 3)" -I "$(v4 "$2")" ;;
    6) on "$1" dig +tries=1 +time=1 -p "$(between 10000 20000)" "@$(v4 "$2")" example ;; # port unreachable
    esac
}
