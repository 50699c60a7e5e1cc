LABEL[mqtt]=MQTT FILTER[mqtt]='tcp port 1883' NEEDS[mqtt]='mosquitto mosquitto-clients'

mqtt_serve() {
    printf 'listener 1883\nallow_anonymous true\nuser root\n' >"$WORK/mosquitto.conf"
    daemon "$1" mosquitto -c "$WORK/mosquitto.conf"
}

mqtt_session() {
    local topic qos host
    host=$(name "$2")
    topic=$(one_of sensors/temperature home/kitchen/light "devices/$RANDOM/state")
    qos=$(between 0 2)
    case $(between 1 5) in
    1) on "$1" mosquitto_pub -h "$host" -t "$topic" -q "$qos" -m "{\"value\": $RANDOM}" ;;
    2) on "$1" mosquitto_pub -h "$host" -t "$topic" -q "$qos" -m "$RANDOM" --repeat "$(between 2 12)" --repeat-delay "0.$(between 1 7)" ;;
    3) on "$1" mosquitto_pub -h "$host" -t "$topic" -q "$qos" -V "$(one_of mqttv311 mqttv5)" -f "$WORK/files/$(one_of 700 3000 12000).bin" ;;
    4) on "$1" mosquitto_sub -h "$host" -t '#' -q "$qos" -W "$(between 2 8)" & # hears itself and its neighbours
        sleep 0.5
        for _ in 1 2 3; do on "$1" mosquitto_pub -h "$host" -t "$topic" -r -q "$qos" -m "state $RANDOM"; think 100 900; done
        wait $! ;;
    5) on "$1" mosquitto_rr -h "$host" -t "$topic" -e "$topic/answer" -m "request" -W 3 ;;
    esac
}
