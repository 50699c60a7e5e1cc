LABEL[quic]=QUIC FILTER[quic]='udp port 443' NEEDS[quic]='ngtcp2-client ngtcp2-server'

quic_serve() {
    local root=$WORK/quic
    mkdir -p "$root"
    cp "$WORK"/files/* "$root"
    # The one shows an RSA certificate, the other an elliptic curve's.
    local kind=rsa
    [ "$1" = near ] || kind=ec
    daemon "$1" gtlsserver -q -d "$root" '*' 443 "$WORK/cert/$kind.key" "$WORK/cert/$kind.pem"
}

quic_session() {
    local urls=() host options
    host=$(address "$2")
    for _ in $(seq "$(one_of 1 1 2 4 8)"); do urls+=("https://$2.example/$(basename "$(blob)")"); done
    options=(-q "--sni=$2.example" --timeout 3s --exit-on-all-streams-close)
    ! chance 30 || options+=("--delay-stream=$(between 50 800)ms")
    ! chance 20 || options+=("--session-file=$WORK/$1.session" "--tp-file=$WORK/$1.tp")
    if chance 15; then
        options+=(--http-method=POST "--data=$(blob)")
        urls=("${urls[0]}")
    fi
    on "$1" gtlsclient "${options[@]}" "$host" 443 "${urls[@]}"
}
