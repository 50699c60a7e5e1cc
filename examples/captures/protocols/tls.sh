LABEL[tls]=TLS FILTER[tls]='tcp port 443 or tcp port 8443' NEEDS[tls]='nginx-light curl wget openssl'

tls_serve() {
    local ssl="ssl_protocols TLSv1.2 TLSv1.3; ssl_session_tickets on;"
    web_serve "$1" tls-rsa "listen 443 ssl http2; listen [::]:443 ssl http2; $ssl
        ssl_certificate $WORK/cert/rsa.pem; ssl_certificate_key $WORK/cert/rsa.key;"
    # 81 is taken by the first nginx, which answers for both.
    sed -i '/listen 127.0.0.1:81/d' "$WORK/nginx-tls-rsa-$1.conf"
    web_serve "$1" tls-ec "listen 8443 ssl; listen [::]:8443 ssl; $ssl
        ssl_certificate $WORK/cert/ec.pem; ssl_certificate_key $WORK/cert/ec.key;"
}

tls_session() {
    local port
    port=$(one_of 443 443 8443)
    case $(between 1 6) in
    1) # a session that types slowly, as a long poll or a push channel looks
        (for _ in $(seq "$(between 2 6)"); do
            printf 'GET /%s HTTP/1.1\r\nHost: %s.example\r\n\r\n' "$(one_of 150.txt 700.bin none)" "$2"
            think 200 1500
        done) | on "$1" openssl s_client -quiet -alpn http/1.1 -servername "$2.example" -connect "$(v4 "$2"):$port" ;;
    2) on "$1" openssl s_client -servername "$2.example" -connect "$(v4 "$2"):$port" \
        "$(one_of -tls1_2 -tls1_3)" -reconnect </dev/null ;;
    *) web_session "$1" "https://$2.example:$port" --cacert "$WORK/cert/root.pem" \
        $(one_of --tlsv1.3 --tlsv1.2 --http1.1 '--tls-max 1.2') ;;
    esac
}
