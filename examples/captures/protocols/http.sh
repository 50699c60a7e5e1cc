# 8200: where the media servers of ssdp.sh describe themselves, over HTTP.
LABEL[http]=HTTP FILTER[http]='tcp port 80 or tcp port 8200' NEEDS[http]='nginx-light curl wget'

http_serve() { web_serve "$1" http 'listen 80; listen [::]:80;'; }
http_session() { web_session "$1" "http://$(one_of "" www.)$2.example"; }

# web_serve SERVER NAME LISTEN: an nginx of its own; https.sh uses it too.
web_serve() {
    local root=$WORK/web
    mkdir -p "$root"
    cp "$WORK"/files/* "$root"
    # A page with its parts, for clients that fetch what a page refers to.
    {
        echo '<html><body><h1>Results</h1>'
        printf '<img src="%s.bin"><p>Lorem ipsum dolor sit amet.</p>' 700 3000 6000 12000
        echo '<script src="1400.txt"></script></body></html>'
    } >"$root/index.html"
    chmod -R a+rX "$root"
    cat >"$WORK/nginx-$2-$1.conf" <<CONF
user www-data;
daemon off;
pid $WORK/nginx-$2-$1.pid;
error_log stderr;
worker_processes 1;
events { worker_connections 256; }
http {
    access_log off;
    default_type text/html;
    gzip on;
    gzip_types *;
    keepalive_timeout 5;
    client_body_temp_path $WORK/nginx-$2-$1.body;
    server {
        $3
        root $root;
        location /old/ { return 301 /index.html; }
        location /slow/ { alias $root/; limit_rate 20k; }
        location /form { proxy_pass http://127.0.0.1:81/; proxy_temp_path $WORK/nginx-$2-$1.proxy; }
    }
    server { listen 127.0.0.1:81; return 200 "{\"status\": \"stored\"}\n"; }
}
CONF
    daemon "$1" nginx -c "$WORK/nginx-$2-$1.conf"
}

# web_session CLIENT URL [CURL OPTION...]
web_session() {
    local client=$1 url=$2 agent urls=()
    shift 2
    agent=$(one_of curl/7.88.1 'Mozilla/5.0 (X11; Linux x86_64; rv:115.0) Gecko/20100101 Firefox/115.0' \
        'Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0 Safari/537.36')
    for _ in $(seq "$(between 2 8)"); do urls+=(-o /dev/null "$url/$(basename "$(blob)")"); done
    set -- -sS --max-time 15 "-$(family)" -A "$agent" "$@"
    case $(between 1 9) in
    1 | 2) on "$client" curl "$@" -o /dev/null --compressed "$url/$(basename "$(blob)")" ;;
    3) on "$client" curl "$@" --compressed "${urls[@]}" ;;                 # one connection kept
    4) on "$client" curl "$@" -Z --parallel-max 3 "${urls[@]}" ;;          # several at once
    5) on "$client" curl "$@" -L -H "Cookie: session=$(printf %0"$(between 20 400)"d 7)" "$url/old/page" ;;
    6) on "$client" curl "$@" -H Expect: --data-binary "@$(blob)" "$url/form" ;;
    7) on "$client" curl "$@" -o /dev/null "$url/slow/25000.$(one_of txt bin)" ;;
    8) on "$client" wget -q --tries=1 --no-check-certificate -U "$agent" -p -P "$WORK/wget-$client" "$url/index.html" ;;
    9) on "$client" curl "$@" -I --next "$@" -o /dev/null "$url/no-such-page" --next "$@" -o /dev/null "$url/" ;;
    esac
}
