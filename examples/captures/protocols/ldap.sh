LABEL[ldap]=LDAP FILTER[ldap]='tcp port 389' NEEDS[ldap]='slapd ldap-utils'

ldap_serve() {
    local dir=$WORK/ldap-$1 i
    mkdir -p "$dir/db"
    cat >"$dir/conf" <<CONF
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile $dir/pid
TLSCertificateFile $WORK/cert/rsa.pem
TLSCertificateKeyFile $WORK/cert/rsa.key
database mdb
suffix dc=example
rootdn cn=admin,dc=example
rootpw secret
directory $dir/db
CONF
    {
        printf 'dn: dc=example\nobjectClass: dcObject\nobjectClass: organization\no: Lab\ndc: example\n\n'
        printf 'dn: ou=people,dc=example\nobjectClass: organizationalUnit\nou: people\n\n'
        for i in {1..150}; do
            printf 'dn: uid=user%d,ou=people,dc=example\nobjectClass: inetOrgPerson\nuid: user%d\ncn: User Number %d\n' $i $i $i
            printf 'sn: Number%d\nmail: user%d@example\ntelephoneNumber: +1 555 01%03d\nuserPassword: secret\n\n' $i $i $i
        done
    } >"$dir/ldif"
    slapadd -f "$dir/conf" -l "$dir/ldif" 2>>"$WORK/log/slapadd.log"
    daemon "$1" slapd -d 0 -h 'ldap:///' -f "$dir/conf"
}

ldap_session() {
    local who="uid=user$(between 1 150),ou=people,dc=example" url
    url=ldap://$(name "$2")
    case $(between 1 7) in
    1) on "$1" ldapsearch -x -H "$url" -b dc=example "(uid=user$(between 1 200))" ;;
    2) on "$1" ldapsearch -x -H "$url" -D "$who" -w secret -b dc=example "(cn=User*$(between 1 9))" mail telephoneNumber ;;
    3) on "$1" ldapsearch -x -H "$url" -b ou=people,dc=example -z "$(between 20 150)" ;;
    4) on "$1" ldapsearch -x -H "$url" -b '' -s base '+' ;;
    5) on "$1" ldapwhoami -x -H "$url" -D "$who" -w "$(one_of secret wrong)" ;;
    6) { printf 'dn: %s\nchangetype: modify\nreplace: description\ndescription: ' "$who"; head -c "$(between 10 400)" "$WORK/files/700.txt" | tr -d '\n'; echo; } |
        on "$1" ldapmodify -x -H "$url" -D cn=admin,dc=example -w secret ;;
    7) on "$1" ldapsearch -x -H "$url" -b dc=example -E "pr=$(between 10 40)/noprompt" '(objectClass=person)' uid cn ;;
    esac
}
