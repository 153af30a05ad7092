-- Percentiles of a dataset of blkiomon archive, for DuckDB 1.3 or later. They equal those of
-- blkiomon.
--
--   CREATE VIEW requests AS FROM read_parquet('archive/requests/*/*.parquet');
--   FROM d2c_percentile('requests', host, 99.9);
--   FROM d2c_percentile('requests', {host: host, hour: date_trunc('hour', start)}, 99);
--
-- The first argument names a table, view or CTE with the columns of requests, such as a view of the
-- reads of some hosts. The second is what to group by; `true` makes one group of all. The result has
-- a row for each group: key, count (of requests) and value (ns or bytes).

-- The middle of a bin: shift = max(0, bits(value) - 7); bin = 64 * shift + (value >> shift).
CREATE OR REPLACE MACRO bin_shift(bin_number) AS greatest(bin_number // 64 - 1, 0);
CREATE OR REPLACE MACRO bin_middle(bin_number) AS
    ((bin_number - 64 * bin_shift(bin_number))::BIGINT << bin_shift(bin_number)::BIGINT)
    + ((1::BIGINT << bin_shift(bin_number)::BIGINT) - 1) // 2;

CREATE OR REPLACE MACRO distribution_percentile(
    source, group_key, bin_lists, count_lists, minima, maxima, percent
) AS TABLE
-- Each group has a number: rows of bins are faster to add up by a number than by a name or struct.
WITH numbered_groups AS MATERIALIZED (
    SELECT *, (row_number() OVER ())::INTEGER AS number
    FROM (
        SELECT group_key AS key, min(minima) AS least_value, max(maxima) AS greatest_value
        FROM query_table(source) GROUP BY group_key
    )
),
listed AS (
    SELECT number, unnest(bins) AS bin, unnest(counts) AS n
    FROM (
        SELECT group_key AS key, bin_lists AS bins, count_lists AS counts
        FROM query_table(source)
    ) AS source_rows
    JOIN numbered_groups AS g ON source_rows.key IS NOT DISTINCT FROM g.key  -- a key may be null
),
summed AS (SELECT number, bin, sum(n)::BIGINT AS n FROM listed GROUP BY number, bin),
histograms AS (
    SELECT number, list_sort(list({bin: bin, upto: n})) AS bins, sum(n)::HUGEINT AS total
    FROM summed GROUP BY number
),
-- The nearest rank, ceil(percent / 100 * total), in exact arithmetic.
ranked AS (
    SELECT bins, total, key, least_value, greatest_value, CASE
        WHEN percent BETWEEN 1 AND 100
        THEN ((percent * 1000000)::HUGEINT * total + 99999999) // 100000000
        ELSE error('percent must be from 1 to 100: 99 is the p99')
    END AS rank
    FROM histograms JOIN numbered_groups USING (number)
),
-- Counts are added up from the least bin on, until the sum reaches the rank.
found AS (
    SELECT *, list_reduce(
        bins,
        lambda sofar, next: CASE
            WHEN sofar.upto >= rank THEN sofar
            ELSE {bin: next.bin, upto: sofar.upto + next.upto}
        END
    ).bin AS bin
    FROM ranked
)
SELECT key, total::BIGINT AS count,
       -- The extremes are exact; any other value is the middle of its bin.
       CASE WHEN rank = 1 THEN least_value
            WHEN rank = total THEN greatest_value
            ELSE greatest(least(bin_middle(bin), greatest_value), least_value)
       END AS value
FROM found ORDER BY key;

CREATE OR REPLACE MACRO d2c_percentile(source, group_key, percent) AS TABLE
FROM distribution_percentile(
    source, group_key, d2c_bin, d2c_count, d2c_min_ns, d2c_max_ns, percent
);
CREATE OR REPLACE MACRO q2d_percentile(source, group_key, percent) AS TABLE
FROM distribution_percentile(
    source, group_key, q2d_bin, q2d_count, q2d_min_ns, q2d_max_ns, percent
);
CREATE OR REPLACE MACRO q2c_percentile(source, group_key, percent) AS TABLE
FROM distribution_percentile(
    source, group_key, q2c_bin, q2c_count, q2c_min_ns, q2c_max_ns, percent
);
CREATE OR REPLACE MACRO size_percentile(source, group_key, percent) AS TABLE
FROM distribution_percentile(
    source, group_key, size_bin, size_count, size_min_bytes, size_max_bytes, percent
);
