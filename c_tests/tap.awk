# Checks what one program wrote in the Test Anything Protocol and rewrites it under the program's name.
#   awk -v name=NAME -v status=EXIT_STATUS -f tap.awk LOG
# A program that ends badly, without tests, or with others than it announced, has one failure more.
/^1\.\.0 *# *SKIP/ { sub(/^1\.\.0 *# *SKIP */, ""); print "ok - " name " # SKIP " $0; planned = seen = -1; next }
/^1\.\.[0-9]+/ { planned = substr($1, 4) + 0; next }
/^(not )?ok/ {
    seen++
    bad = $1 == "not"
    failed += bad
    sub(/^(not )?ok *[0-9]* *-? */, "")
    print (bad ? "not ok - " : "ok - ") name ": " $0
    next
}
/^#/ { print; next }
/./ { print "# " $0 }
END {
    if (status == 124 || status == 137)
        print "not ok - " name ": ran out of time"
    else if (status != 0 && !failed)
        print "not ok - " name ": ended with status " status
    else if (!seen)
        print "not ok - " name ": ran no test"
    else if (planned != seen)
        print "not ok - " name ": planned " planned + 0 " tests and ran " seen + 0
}
