# Made by `make manual` from --help.

function __blkiomon_runs
    set -l words (commandline -opc) monitor
    contains -- $words[2] compare decode report; or set words[2] monitor
    test $words[2] = $argv[1]
end

function __blkiomon_devices
    string replace -r '.*/' '' /sys/class/block/*
end

complete -c blkiomon -n 'test (count (commandline -opc)) -eq 1' -a compare -d 'What has changed from run A to run B, by device and operation, with the interval in which the change lies with 95 % confidence'
complete -c blkiomon -n 'test (count (commandline -opc)) -eq 1' -a decode -d 'What -b wrote, printed'
complete -c blkiomon -n 'test (count (commandline -opc)) -eq 1' -a report -d 'A page to look at and to keep'
complete -c blkiomon -n '__blkiomon_runs monitor' -s I -l interval -x -d 'length of an interval; required, 0.001 or more'
complete -c blkiomon -n '__blkiomon_runs monitor' -s V -l version -d 'print the version'
complete -c blkiomon -n '__blkiomon_runs monitor' -l trace -x -a '(__blkiomon_devices)' -d 'trace this one from now on (repeatable); takes root'
complete -c blkiomon -n '__blkiomon_runs monitor' -l capture -x -a 'auto blktrace tracefs' -d 'with what (default: what works)'
complete -c blkiomon -n '__blkiomon_runs monitor' -l device -x -a '(__blkiomon_devices)' -d 'sdb, /dev/sdb or 8:16; only this one (repeatable)'
complete -c blkiomon -n '__blkiomon_runs monitor' -l from -x -d 'begin there: seconds from the first record, or a time'
complete -c blkiomon -n '__blkiomon_runs monitor' -l to -x -d 'end before that'
complete -c blkiomon -n '__blkiomon_runs monitor' -l clock -x -a 'auto trace wall' -d 'what ends an interval (default auto); see below'
complete -c blkiomon -n '__blkiomon_runs monitor' -s h -l human-readable -r -F -d 'statistics as text'
complete -c blkiomon -n '__blkiomon_runs monitor' -s b -l binary -r -F -d 'statistics as the original'\''s binary struct'
complete -c blkiomon -n '__blkiomon_runs monitor' -s d -l dump-lldd -r -F -d 'records of low-level drivers, passed through'
complete -c blkiomon -n '__blkiomon_runs monitor' -s D -l debug -r -F -d 'records without a partner, and totals'
complete -c blkiomon -n '__blkiomon_runs monitor' -l json -r -F -d 'JSON Lines, one interval a line'
complete -c blkiomon -n '__blkiomon_runs monitor' -l csv -r -F -d 'a row for each interval, device and operation'
complete -c blkiomon -n '__blkiomon_runs monitor' -l parquet -r -F -d 'the same rows; needs pip install '\''blkiomon[arrow]'\'''
complete -c blkiomon -n '__blkiomon_runs monitor' -l openmetrics -x -d 'metrics; pip install '\''blkiomon[metrics]'\'''
complete -c blkiomon -n '__blkiomon_runs monitor' -l textfile -r -F -d 'a file that always holds these metrics; likewise'
complete -c blkiomon -n '__blkiomon_runs monitor' -l names -x -a 'yes no' -d 'what this host calls the devices (default: if live)'
complete -c blkiomon -n '__blkiomon_runs monitor' -s Q -l msg-queue -r -F -d 'path that names the queue, as for ftok(3)'
complete -c blkiomon -n '__blkiomon_runs monitor' -s q -l msg-queue-id -x -d 'project id of the queue, not 0'
complete -c blkiomon -n '__blkiomon_runs monitor' -s m -l msg-id -x -d 'type of the messages, greater than 0'
complete -c blkiomon -n '__blkiomon_runs monitor' -l help -d 'print this text'
complete -c blkiomon -n '__blkiomon_runs monitor' -l threads -x -d 'with 2, use two cores (default 1)'
complete -c blkiomon -n '__blkiomon_runs monitor' -l stat-version -x -a '0.3 0.2' -d 'layout of the statistics (default 0.3)'
complete -c blkiomon -n '__blkiomon_runs monitor' -l no-final -d 'drop the last, partial interval, as the original does'
complete -c blkiomon -n '__blkiomon_runs monitor' -l resync -d 'after garbage go on at the next record, count what is skipped'
complete -c blkiomon -n '__blkiomon_runs monitor' -l max-pending -x -d 'pending records kept at most (default 1000000)'
complete -c blkiomon -n '__blkiomon_runs monitor' -l max-age -x -d 'age of a pending record at most (default 600)'
complete -c blkiomon -n '__blkiomon_runs monitor' -s v -l verbose -d 'say what is being waited for'
complete -c blkiomon -n '__blkiomon_runs compare' -s o -l output -r -F -d 'also write a page with both sides, changes.html; a name that ends in .png, .svg or .pdf for the pictures alone'
complete -c blkiomon -n '__blkiomon_runs compare' -l json -d 'print JSON'
complete -c blkiomon -n '__blkiomon_runs compare' -l device -x -a '(__blkiomon_devices)' -d 'sdb, /dev/sdb or 8:16; only this one (repeatable)'
complete -c blkiomon -n '__blkiomon_runs compare' -l title -x -d 'heading of the page'
complete -c blkiomon -n '__blkiomon_runs compare' -l chart -x -d 'only this one: tail, time or iops; tail-0 is that of the busiest device and operation (repeatable)'
complete -c blkiomon -n '__blkiomon_runs compare' -l fail-if -x -d 'exit with 1 if it holds; repeatable. '\''read.p99 > +10%'\'' is a change that is shown; '\''write.max > 50ms'\'', '\''read.iops < 900'\'', '\''8:16/read.bandwidth < 40MB/s'\'' and '\''all.errors > 0'\'' are limits for B'
complete -c blkiomon -n '__blkiomon_runs compare' -l help -d 'print this text'
complete -c blkiomon -n '__blkiomon_runs decode' -l text -d 'as -h prints it, which is the default'
complete -c blkiomon -n '__blkiomon_runs decode' -l json -d 'JSON Lines, one struct a line'
complete -c blkiomon -n '__blkiomon_runs decode' -l csv -d 'a row for each struct'
complete -c blkiomon -n '__blkiomon_runs decode' -l help -d 'print this text'
complete -c blkiomon -n '__blkiomon_runs report' -s o -l output -r -F -d 'report.html for one self-contained page; a name that ends in .png, .svg or .pdf for the pictures alone'
complete -c blkiomon -n '__blkiomon_runs report' -l device -x -a '(__blkiomon_devices)' -d 'sdb, /dev/sdb or 8:16; only this one (repeatable)'
complete -c blkiomon -n '__blkiomon_runs report' -l title -x -d 'heading of the page'
complete -c blkiomon -n '__blkiomon_runs report' -l chart -x -d 'only this one: iops, bandwidth, percentiles, heat, tail, sizes, in-flight, sectors or sequential, heat-read and the like (repeatable)'
complete -c blkiomon -n '__blkiomon_runs report' -l help -d 'print this text'
