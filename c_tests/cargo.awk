# Rewrites what Rust's test programs print (--format pretty) in the Test Anything Protocol.
/^test .* \.\.\. ok/ { n++; print "ok - " $2 }
/^test .* \.\.\. ignored/ { n++; print "ok - " $2 " # SKIP ignored" }
/^test .* \.\.\. FAILED/ { n++; print "not ok - " $2 }
END { print "1.." n + 0 }
