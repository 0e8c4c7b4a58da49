"""Every limit and period, named once, with its unit in the name or comment and the reason beside it.

Pure constants: what a person may change comes in through `app.Settings`.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# --- protocol identifiers ---
PROTOCOL_VERSION: Final = 1
SESSION_PROTOCOL: Final = "/p2pe/session/1.0.0"
KAD_PROTOCOL: Final = "/p2pe/kad/1.0.0"

# --- messages (docs/protocol.md) ---
MAX_TEXT_BYTES: Final = 32 * KIB  # a long letter; anything longer is a file
MAX_BODY_BYTES: Final = MAX_TEXT_BYTES + 256  # Content around the text
MESSAGE_ID_BYTES: Final = 32
STREAM_ID_BYTES: Final = 16
NOISE_MAX_BYTES: Final = 65_535  # the Noise specification's largest message
NOISE_TAG_BYTES: Final = 16
NOISE_PROOFS: Final = 256  # of whose Noise keys they are, remembered: the same peers come back. 4 KiB each at the most
MAX_FRAME_BYTES: Final = NOISE_MAX_BYTES - NOISE_TAG_BYTES  # plaintext of one Noise message
MIN_FRAME_BYTES: Final = 256  # padding floor: a receipt looks like a short text
MAX_BATCH_MESSAGES: Final = 256  # per frame: bounds the work of one commit at the recipient
MAX_RECEIPTS_PER_FRAME: Final = 1024
MAX_HANDSHAKE_BYTES: Final = 4 * KIB  # Hello is about 1.3 KiB; a stranger gets no more than this buffered
MAX_QUEUED_PER_CONTACT: Final = 100_000  # a sender's own queue: about 30 MB; beyond it `send` refuses, clearly
MAX_IN_FLIGHT: Final = 2048  # offered, unreceipted messages a link: memory at the recipient, work after a cut
MAX_OFFER_MESSAGES: Final = 512  # offered in one commit and one write: a quarter of the window, so that all stages work
MAX_OFFER_BYTES: Final = 1 * MIB  # of bodies in that commit (one message more at the most): memory of a courier
FIRST_OFFER_BYTES: Final = 8 * KIB  # over a link that may be cut at 128 KiB, until its receipts; doubles with each
MAX_RECEIVED_FRAMES: Final = 16  # of one link read ahead of their commit: 1 MiB; what is there is committed together
MAX_STREAMS_PER_CONTACT: Final = 64  # sending orders remembered of a contact: one an installation or a rollback
MAX_IDEMPOTENCY_KEY_BYTES: Final = 255  # a UUID or a name of the caller's own
MAX_WAITERS: Final = 10_000  # callers waiting for a state at once; a forgotten client must not grow the table
LINK_OVERTAKEN_SECONDS: Final = 1.0  # what a write may still take once a newer link to the same contact lives
LINK_ATTACH_SECONDS: Final = 10.0  # how long a courier waits for a link it was given to be served
STORAGE_RETRY_SECONDS: Final = 5.0  # after a failed commit (full disk): soon after space was made
MAX_EXPIRE_MILLIS: Final = 366 * 86_400_000  # of a message of ours: beyond a year it is no expiring message
EXPIRY_CHECK_SECONDS: Final = 3_600.0  # at least this often: the wall clock may have been put forward
EXPIRY_NOTE_SECONDS: Final = 60.0  # at most this often the clock is noted: how late a step while we're off is found
CLOCK_LOOK_SECONDS: Final = 5.0  # between looks whether the clock was put back, while something counts down
CLOCK_STEP_SECONDS: Final = 2.0  # behind where it should be: somebody has put the clock back; less is steering by NTP
EXPIRY_PAUSE_SECONDS: Final = 1.0  # at most this often: a busy node changes states thousands of times a second
MAX_PAGE_BYTES: Final = 4 * MIB  # of texts in one page of the inbox or outbox; one message more at the most
MAX_EXPIRED_AT_ONCE: Final = 1_000  # messages erased in one commit

MAX_TICKET_BYTES: Final = 512  # another's contact ticket that we keep unread: theirs to lay out, ours to bound
TICKET_BYTES: Final = 256  # our own: one size, so that its length says nothing about the name in it
MAX_REVOKED_DEVICES: Final = 64  # in a device certificate: 2.2 KiB, so that a handshake message fits its limit

# --- sessions ---
SESSION_MAX_SECONDS: Final = 600.0  # a stolen session key is worth 10 minutes at most
SESSION_MAX_BYTES: Final = 64 * MIB
HANDSHAKE_TIMEOUT: Final = 10.0  # seconds at the least (core/patience.py); a relayed phone link takes 2-3 s
LINK_PING_INTERVAL: Final = 3.0  # seconds between pings on a link or connection; with the time-out: dead within 9 s
LINK_PING_TIMEOUT: Final = 2.0
MAX_LINKS_PER_CONTACT: Final = 4  # ours, theirs, and one being replaced on each side
SESSION_RENEW_AT: Final = 0.9  # of either limit: the next session is ready before this one may no longer be used
SESSION_BUSY_SECONDS: Final = 60.0  # a session without a frame for so long isn't renewed until somebody writes
LINK_RETIRE_QUIET: Final = 0.5  # seconds without a frame before a link that was replaced is closed
LINK_RETIRE_SECONDS: Final = 5.0  # and at the most so long after it was replaced
LINK_RACE_SECONDS: Final = 30.0  # two links this close in age came of both sides dialling: the lower key's stays
GOODBYE_SECONDS: Final = 1.0  # to write a goodbye; a dead peer must not delay a stop
MAX_WAITING_HELLOS: Final = 256  # streams whose hello hasn't come; each may have 4 KiB of it buffered
MAX_PENDING_HANDSHAKES: Final = 32  # inbound: each costs up to 3 ms of CPU and 10 s of patience
MAX_CONTACT_HANDSHAKES_PER_MINUTE: Final = 30  # sessions a contact may open: renewals and path changes need 2 or 3
MAX_SUBNETS_COUNTED: Final = 4_096  # whose attempts are counted; the oldest gives way
GREET_WAIT: Final = 5.0  # seconds at the most that greeting waits for our records to be out
GREET_AT_ONCE: Final = 8  # contacts being dialled at the same time after a start
MAX_GREETED: Final = 256  # contacts greeted after a start, those seen last first; half of MAX_CONNECTIONS
RECONNECT_WAITS: Final = (0.1, 0.5, 2.0, 8.0, 30.0)  # seconds before each try after a link broke
RECONNECT_WAITS_DIALLED: Final = RECONNECT_WAITS[2:]  # of who was dialled: two dials at once would make two links
CACHED_HEADSTART: Final = 0.5  # seconds that the address which worked last gets before the DHT is asked
MAX_REMEMBERED_ADDRESSES: Final = 3  # of a contact: the last path, and two relays
HISTORY_ATTEMPTS: Final = 32  # lines of `p2pe why` kept a contact
SESSION_ATTEMPTS_PER_MINUTE_PER_SUBNET: Final = 5  # strangers' hellos, per /24 or /56
SESSION_ATTEMPTS_PER_MINUTE: Final = 30

# --- retrying (courier) ---
RETRY_FIRST: Final = 0.5  # seconds
RETRY_MAX: Final = 60.0  # seconds: somebody who comes online greets us anyway
RETRY_STEADY: Final = 15  # tries at that pause; then somebody is away for long, and each try costs eight GETs
RETRY_AWAY_MAX: Final = 600.0  # seconds up to which the pause doubles from then on
TURN_MAX: Final = 8.0  # seconds one of two may wait for the other to write first: 64 KiB over a slow phone link
RETRY_JITTER: Final = 0.3  # +-30 %: nodes that lost the same relay don't return together

# --- pairing ---
INVITE_SECONDS: Final = 600
INVITE_GUESSES: Final = 3  # 3 / 2^22 against a 22-bit password
INVITE_RETRY_SECONDS: Final = 5.0  # before an open invite that couldn't be published is tried again
MAX_OPEN_INVITES: Final = 16
LOCATOR_SLOTS: Final = 4  # records a locator; an invitee tries at most LOCATOR_TRIES of them
LOCATOR_TRIES: Final = 3
LINK_BOOTSTRAP_MAX: Final = 4
LOCATOR_ARGON2_PASSES: Final = 3  # 0.08 s on an idle core, 0.3 s on a busy one, a guess at a locator
LOCATOR_ARGON2_BYTES: Final = 64 * MIB  # as much as a small machine can spare for that long
MAX_NAME_CHARS: Final = 64
MAX_CONTACTS: Final = 5_000

# --- the life of an identity (docs/protocol/identity.md) ---
RECOVER_SECONDS: Final = 30 * 86_400  # a restored node can be found by its identity key so long: contacts on holiday
RECOVER_LOOK_FIRST: Final = 15.0  # seconds a contact stays unreachable before we look under its identity key; doubles
RECOVER_LOOK_MAX: Final = 3_600.0  # each look shows its storers that somebody looks for one opaque key of the day
RECOVER_SWEEP: Final = 6 * 3_600.0  # seconds between looks for contacts to whom nobody writes: 120 within 30 days
RECOVER_SWEEP_AFTER: Final = 86_400  # seconds unseen before a sweep looks for somebody
RECOVER_LOOKS_AT_ONCE: Final = 4
RECOVER_WAIT: Final = 600.0  # seconds a contact waits on the line for the restored person's approval
MAX_RECOVER_WAITING: Final = 16  # contacts waiting so at once; the others come again
MAX_RECOVER_REQUESTS: Final = 256  # kept for approval, newest first; each took a ticket of our own making
RECOVER_REQUEST_SECONDS: Final = 30 * 86_400  # then it is forgotten: whoever still wants us comes again
ROTATE_SECONDS: Final = 30 * 86_400  # a stolen pair secret finds and impersonates nobody for longer
ROTATE_LOOK: Final = 3_600.0  # seconds between looks at whose secret is due

# --- records in the DHT ---
MAX_RECORD_BYTES: Final = 1 * KIB
RECORD_PAYLOAD_BYTES: Final = 512  # one size for all: no telling a node with one address from one with eight
MAX_RECORD_TTL: Final = 24 * 3600  # seconds
RECORD_TTL: Final = 3 * 3600  # seconds at the least, and 2.5 refreshes: what we ask for
RECORD_REFRESH: Final = 3600  # seconds between publications at the least, jittered: under 30 % hourly churn
RECORD_REFRESH_MAX: Final = 9.5 * 3600  # and at the most, where servers stay: 2.5 of these fit in MAX_RECORD_TTL
RECORD_TTL_REFRESHES: Final = 2.5  # one refresh may fail, and a jittered one come late
PUBLISH_LOSS: Final = 0.5  # departures a storer expected until a refresh: of 8, all are gone in 1 case of 1,700
PUBLISH_COVER: Final = 16  # records of one node come in multiples of this: storers can't count contacts
MAX_ADDRESSES: Final = 8  # in a record
PUBLISH_SPREAD: Final = 0.2  # +-20 % of RECORD_REFRESH, a contact: publications don't come in waves
PUBLISH_AT_ONCE: Final = 8  # records being stored at the same time: 100 contacts take a few seconds at start
PUBLISH_FIRST_WAIT: Final = 1.0  # seconds that the first publication waits for a relay's address to be in it
PUBLISH_DEBOUNCE: Final = 0.25  # seconds after an address change: several come together
PUBLISH_SETTLE: Final = 1.0  # seconds without change, while what is published still reaches us: relays come one by one
PUBLISH_SETTLE_MAX: Final = 2.0  # and at the most since the first change
PUBLISH_LOOK: Final = 60.0  # seconds at the most between two looks at the clock: a suspended laptop catches up
CLOCK_SKEW: Final = 600  # seconds: how far another's clock may be ahead of ours

# --- Kademlia ---
KAD_K: Final = 20  # bucket size and closest-set size (kad-dht specification)
KAD_ALPHA: Final = 3  # requests in flight a path (kad-dht specification: 10 in all; 3 paths x 3)
KAD_DISJOINT_PATHS: Final = 3  # S/Kademlia: one hostile path must not own a lookup
KAD_STORE_COUNT: Final = 8  # storers a record: 1 of 8 alive is enough under 30 % hourly churn
KAD_QUERY_TIMEOUT: Final = 3.0  # seconds a request, upper bound of the adaptive time-out; more on a slow line
KAD_QUERY_TRIPS: Final = 3  # round trips of one that must connect first: TCP, Noise, the question
KAD_LOOKUP_TIMEOUT: Final = 5.0  # seconds a whole lookup; more on a slow line
KAD_LOOKUP_TRIPS: Final = 20  # round trips it may take there: four rounds of KAD_QUERY_TRIPS, and dead servers
KAD_MAX_MESSAGE: Final = 64 * KIB  # 20 peers with 8 addresses fit in 16 KiB
KAD_MAX_PEER_ADDRESSES: Final = 8
KAD_BUCKET_PER_SUBNET: Final = 2  # peers of one /24 or /56 in a bucket
KAD_TABLE_PER_SUBNET: Final = 10  # and in the table
KAD_STORE_MAX_RECORDS: Final = 65_536  # 64 MiB at the most
KAD_STORE_PER_PEER: Final = 512  # records one peer may have us keep
KAD_STORE_PER_SUBNET: Final = 4_096
KAD_BUCKET_PER_ASN: Final = 6  # peers of one autonomous system in a bucket, when a map of them is given
KAD_TABLE_PER_ASN: Final = 40
KAD_ANSWER_PER_SUBNET: Final = 1  # peers of one /24 or /56 asked in a lookup, and storers, while there are others
KAD_MAX_FAILURES: Final = 2  # failures in a row after which a peer leaves its bucket even with nobody to replace it
KAD_MIN_TIMEOUT: Final = 0.5  # seconds, lower bound of the adaptive time-out: a handshake over a slow phone link
KAD_PATH_CANDIDATES: Final = 60  # peers a path remembers: three replies' worth; endless closer peers end here
KAD_LOOKUP_MAX_REQUESTS: Final = 96  # a lookup: four times what an honest one needs among 10,000 nodes
KAD_QUORUM: Final = 3  # storers that agree on the newest record before a reader stops asking
KAD_BUCKET_REFRESH: Final = 3600.0  # seconds a bucket may go without an answer from it before it is looked into
KAD_STORER_CACHE: Final = 1_024  # locations whose storers are remembered: 5 contacts a minute for three hours
KAD_STORER_CACHE_SECONDS: Final = 5_400.0  # for a reader; a publisher keeps them for as long as enough of them answer
KAD_RELOOK_SECONDS: Final = 600.0  # storers found so lately that have no record aren't doubted: somebody is just away
KAD_FEW_SECONDS: Final = 10.0  # so long a network of a few servers, all of whom answered, counts as known
KAD_REFUSALS_TELL: Final = 3  # publications in a row that all who answered refused: one may be crowded out
KAD_STORERS_LEAST: Final = 6  # of KAD_STORE_COUNT that must still take a record, or they are looked up again
KAD_STREAM_IDLE: Final = 2.5  # seconds an unused stream and its connection are kept: less than until the first ping
KAD_SERVER_STREAM_IDLE: Final = 8.0  # the same at a server: it is to be dialled back meanwhile
KAD_MAX_IDLE_STREAMS: Final = 64
KAD_MAX_RPC: Final = 64  # requests of ours under way at once; more wait
KAD_RPC_PER_PEER: Final = 4  # of them at one server, each on a stream of its own
KAD_REQUEST_TRIES: Final = 5  # connections tried for one request, when their other end was just closing them
KAD_SERVER_STREAMS: Final = 16  # request streams a peer may have open with us: an honest one uses one or two
KAD_SERVER_STREAM_SECONDS: Final = 60.0  # an inbound stream without a request is closed then
KAD_VERIFY_QUEUE: Final = 128  # servers that asked us something and wait to be dialled back
KAD_VERIFY_RETRY: Final = 600.0  # seconds until a peer that failed its dial-back is tried again
KAD_VERIFY_RETRY_SLOW: Final = 30.0  # the same when there was no time, or it hung up before its turn
KAD_VERIFY_TIMEOUT: Final = 12.0  # seconds for a dial-back: DIAL_TIMEOUT, and the question
KAD_MAINTENANCE: Final = 60.0  # seconds between looks at what the table needs, jittered
KAD_MAINTENANCE_FIRST: Final = (
    2.0  # the first of these, doubling: of servers that start together each meets few at once
)
KAD_BUCKET_ENOUGH: Final = 4  # peers in a bucket; with fewer a server looks for more, or lookups through it get stuck
KAD_THIN_RETRY: Final = (
    900.0  # seconds until a bucket that stayed thin is looked into again: the network is small there
)
KAD_SERVER_CHECK: Final = 900.0  # seconds a server goes without hearing of a peer in its table before it asks
KAD_CHECKS_AT_ONCE: Final = 4  # peers asked in one look: a table of 100 in 25 minutes
KAD_CLIENT_CHECK: Final = 6 * 3600.0  # the same for a client, which needs only a few live peers
KAD_CLIENT_ENOUGH: Final = 8  # peers with which a client doesn't look for more
KAD_JOIN_FIRST: Final = 0.25  # seconds between attempts to find a first server; doubles
KAD_JOIN_MAX: Final = 5.0
KAD_JOIN_ANSWERS: Final = 3  # seeds heard before a join goes on: whoever knows a single hostile one knows nobody else
KAD_JOIN_GRACE: Final = 0.5  # seconds after the first answer for the others: some seeds are down
KAD_MAX_SEEDS: Final = 64  # persisted peers and bootstrap addresses tried in one attempt to join
KAD_PERSISTED_PEERS: Final = 40
SIGNATURES_REMEMBERED: Final = 512  # of records, 0.7 KiB each: twenty storers answer with the same one
KAD_STORE_PERSON: Final = 8_192  # records that a person's node keeps for others: 8 MiB
SERVE_AFTER: Final = 1_200.0  # seconds reachable without a break before a person's node serves: three dial-backs
SERVE_AFTER_MAX: Final = 8 * 3_600.0  # the same after it was short-lived several times: doubled each time
SERVE_STEADY: Final = 6 * 3_600.0  # seconds of serving that weren't short-lived
SERVE_LINGER: Final = 30.0  # seconds unreachable before it stops: a change of network is proved anew within a few
SERVE_ROUND_TRIP_MAX: Final = 1.0  # seconds: whoever asks gives up after KAD_QUERY_TIMEOUT, three round trips
KAD_REQUESTS_PER_SECOND: Final = 50  # a peer; an honest lookup sends fewer than 10 to one server

# --- overlay ---
DIAL_TIMEOUT: Final = 10.0  # seconds for any address of one peer to accept: TCP takes one round trip
DIAL_STAGGER: Final = 0.25  # seconds between addresses (RFC 8305 section 5)
UPGRADE_TIMEOUT: Final = 15.0  # seconds for Noise and muxer on a new connection: one trip of 5 s, one loss
MAX_LINGERING_DIALS: Final = 32  # dials that go on after their callers gave up; more are dropped with the caller
LINGERING_SECONDS: Final = (
    8.0  # what comes of such a dial is kept so long for who asks again, as KAD_SERVER_STREAM_IDLE
)
MAX_CONNECTIONS: Final = 512  # a node
MAX_CONNECTIONS_BOOTSTRAP: Final = 4_096
MAX_CONNECTIONS_PER_SUBNET: Final = 32  # /24 or /56; a household or a small office
MAX_PENDING_UPGRADES: Final = 128
MAX_STREAMS_PER_CONNECTION: Final = 256
YAMUX_INITIAL_WINDOW: Final = 256 * KIB  # the yamux specification's initial window
YAMUX_MAX_WINDOW: Final = 8 * MIB  # a stream's receive window grows up to this with use
YAMUX_CONNECTION_BUFFER: Final = 16 * MIB  # all streams of a connection together
YAMUX_MAX_PAYLOAD: Final = MAX_FRAME_BYTES - 12  # of one data frame: with its header it fills one Noise message
YAMUX_ACK_BACKLOG: Final = 256  # streams opened and not yet acknowledged, each way (libp2p's yamux page)
YAMUX_SEND_BUFFER: Final = 64 * KIB  # a stream's own small writes waiting for the writer; like a socket's buffer
YAMUX_BATCH_BYTES: Final = 128 * KIB  # frames joined into one write; what a small message may wait behind
YAMUX_CONTROL_BACKLOG: Final = 64 * KIB  # answers owed to a peer who doesn't read: beyond it we stop reading him
YAMUX_CLOSE_SECONDS: Final = 60.0  # a stream that we closed waits this long for the other side to close, then resets
YAMUX_GOODBYE_SECONDS: Final = 1.0  # flushing what is left, and go-away, when a connection is closed
CONNECTION_PING_INTERVAL: Final = 3.0
CONNECTION_PING_TIMEOUT: Final = 5.0  # at the least: see core/patience.py
IDLE_CONNECTION_SECONDS: Final = 30.0  # without streams: DHT connections close after this
MAX_CONNECTIONS_PER_PEER: Final = 4  # relayed, punched, and one being replaced on each side
ADDRESSES_REMEMBERED: Final = 1_024  # read once and not again; of at most 512 bytes each, most of 60
MAX_DIAL_ADDRESSES: Final = 16  # of one peer: more are somebody's list of victims
NEGOTIATION_TIMEOUT: Final = 5.0  # seconds at the least to agree on a stream's protocol: one round trip
ROUND_TRIP_MAX: Final = 10.0  # seconds up to which patience grows: two satellite lines; some will feign them
PACE_SAMPLES: Final = 8  # connections made, of which the quickest tells how long a round trip of our line is
MULTISTREAM_MAX_LINE: Final = 1_024  # bytes: go-multistream's own cap
MULTISTREAM_MAX_PROPOSALS: Final = 16  # wrong guesses before the stream is reset
IDENTIFY_MAX_BYTES: Final = 8 * KIB  # go-libp2p's cap
IDENTIFY_MAX_PROTOCOLS: Final = 128
EVENT_BUFFER: Final = 1_024  # host events a slow subscriber may be behind; what exceeds it is dropped and counted
MAX_PING_STREAMS: Final = 2  # /ipfs/ping streams a connection (ping specification)
OBSERVED_ADDRESSES: Final = 32  # distinct addresses others said they see us under
OBSERVED_VOTES: Final = 2  # subnets that must agree on an observed address; AutoNAT verifies it besides
OBSERVED_ENOUGH: Final = 4  # fresh votes of an IP version with which nobody else is asked: identify costs 600 bytes
OBSERVED_SECONDS: Final = 1_800.0  # a vote's life: NATs and leases change
AUTONAT_MAX_ADDRESSES: Final = 16  # a request; the server dials one of them
AUTONAT_DATA_BYTES: Final = 40_000  # asked for before dialling another IP than the asker's (specification: 30-100 k)
AUTONAT_REQUESTS_PER_MINUTE: Final = 60  # a server, all askers together
AUTONAT_REQUESTS_PER_SUBNET: Final = 6  # a minute; a client asks every few minutes
AUTONAT_CONCURRENT: Final = 8  # dial-backs under way
AUTONAT_TIMEOUT: Final = 15.0  # seconds a request may take at the server, data and dial included
REACHABILITY_INTERVAL: Final = 600.0  # seconds between checks of addresses that are settled
REACHABILITY_RETRY: Final = 60.0  # seconds, while they aren't
REACHABILITY_AGREEMENT: Final = 2  # servers that must agree; every operator's list has more than this
PORT_MAPPING_SECONDS: Final = 3_600  # lease asked of a router; renewed at half of it
PORT_MAPPING_MIN_SECONDS: Final = 60.0  # between renewals, though a router grant less: it mustn't keep us busy
PORT_MAPPING_RETRY: Final = 900.0  # before a network without a router that maps ports is asked again
PORT_MAPPING_GOODBYE: Final = 1.0  # for removing the mapping when the node stops
PORT_MAPPING_ANSWERS: Final = 16  # to a search for routers that are looked at; others aren't routers of ours
ROUTER_ANSWER_BYTES: Final = 64 * KIB  # a device description is about 4 KiB
PORT_MAPPING_TIMEOUT: Final = 2.5  # seconds to find a router: it is one hop away
NETWORK_POLL_SECONDS: Final = 5.0  # between looks at the interfaces where the system can't tell us of changes
NETWORK_SETTLE_SECONDS: Final = 0.1  # without news after a first one: a change of network is many messages
NETWORK_SETTLE_MAX: Final = 0.5  # and at the most: half of what a reconnection may take should be left
NETWORK_PROBE_SECONDS: Final = 2.0  # for a sign of life on connections whose address has survived a change
NETWORK_GREET_PAUSE: Final = 10.0  # a round of dialling all contacts may take so long though the network changes again
LAN_ENTRIES: Final = 24  # contacts in one announcement, filled up with random ones: 960 bytes in one packet
LAN_ANSWER_PAUSE: Final = 1.0  # seconds at least between two announcements (RFC 6762 section 6)
LAN_MESSAGES_PER_SECOND: Final = 5  # of others that are looked at: each costs 20 µs a contact
LAN_DIAL_PATIENCE: Final = 1.0  # seconds the side with the higher key lets the other dial first
LAN_ANNOUNCE_SECONDS: Final = 120.0  # between mDNS announcements on a quiet network
ACCEPT_RETRY_SECONDS: Final = 0.1  # after the system refused a descriptor: some are freed by then

# --- relay (bootstrap nodes; circuit-v2) ---
RELAY_RESERVATION_SECONDS: Final = 3_600
RELAY_RESERVATION_LEAST: Final = 120.0  # a client believes in no shorter one: clocks differ
RELAY_RESERVATION_MOST: Final = 7_200.0  # and in no longer one; js-libp2p grants so much
RELAY_MAX_RESERVATIONS: Final = 1_024
RELAY_MAX_RESERVATIONS_PER_SUBNET: Final = 32
RELAY_MAX_CIRCUITS: Final = 512
RELAY_MAX_CIRCUITS_PER_PEER: Final = 16
RELAY_CIRCUIT_SECONDS: Final = 1_800
RELAY_CIRCUIT_BYTES: Final = 256 * MIB
RELAY_BUFFER_BYTES: Final = 64 * KIB  # a direction of a circuit; nothing else of it is ever in memory
RELAY_MAX_CIRCUITS_PER_SUBNET: Final = 64  # /24 or /56 of the one who dials
RELAY_MESSAGE_BYTES: Final = 4 * KIB  # a HOP, STOP or hole-punching message (DCUtR specification)
RELAY_REQUEST_SECONDS: Final = 10.0  # for a request and its answer; then the stream is dropped
RELAY_STOP_MAX: Final = 19.0  # for asking a peer on a slow line to take a circuit: less than the dialler waits
RELAY_REQUESTS_PER_MINUTE: Final = 60  # a peer; an honest one refreshes hourly and dials now and then
RELAY_CLIENT_COUNT: Final = 2  # relays held at once: one may die without our becoming unreachable
RELAY_SECOND_WAIT: Final = 0.4  # seconds after the first reservation for the other to be in the first records too
RELAY_CLIENT_CIRCUITS: Final = 64  # circuits to us being set up at once, all relays together
RELAY_RETRY_FIRST: Final = 1.0  # seconds, doubling, until a relay that failed is asked again
RELAY_RETRY_MAX: Final = 120.0
RELAY_PORT_RETRY: Final = 5.0  # seconds, doubling, until the listen port is tried anew where another had to do
RELAY_FAILURE_SECONDS: Final = 600.0  # a link that broke counts against its relay so long
RELAY_FAILURES_DOUBTED: Final = 3  # within that time, until another relay is taken: one contact's bad line mustn't do
RELAY_STANDINGS: Final = 256  # relays of which failures are remembered, ours and contacts'
RELAY_NOT_ONE_SECONDS: Final = 3_600.0  # until a server that said it doesn't relay is asked again
RELAY_DRAIN_SECONDS: Final = 30.0  # circuits may end by themselves this long when a relay stops
PUNCH_ROUNDS: Final = 3  # DCUtR specification: one attempt and two retries
PUNCH_ROUND_SECONDS: Final = 2.5  # a simultaneous open succeeds within two round trips or not at all
PUNCH_ADDRESSES: Final = 4  # dialled at once in a round; more only fill the NAT's tables
PUNCH_ANSWERS_PER_MINUTE: Final = 12  # rounds a peer may have us take part in: four tries of three rounds
PUNCH_PEERS_COUNTED: Final = 512  # whose rounds are counted; as many as there are connections
PUNCH_SILENCE_SECONDS: Final = 0.4  # of a punched connection: then its server takes the client's part
PUNCH_AGAIN_SECONDS: Final = 0.03  # after a refusal: below a usual one-way delay, so that two SYNs meet soon
PUNCH_REPEATS: Final = (10.0, 60.0, 300.0, 1_800.0)  # seconds, the last repeated, until a relayed link is tried anew
PUNCH_SETTLE_SECONDS: Final = 0.5  # identify's answer about our own address, before the first round

# --- control API ---
API_MAX_BODY: Final = 8 * MIB
API_MAX_BATCH: Final = 1_000  # messages a request
API_MAX_WAIT: Final = 3_600.0  # seconds a client may wait in one request
SCRAPE_BYTES: Final = 4 * KIB  # a request to the metrics port: a scraper's takes a few hundred
SCRAPE_SECONDS: Final = 5.0  # for a request and its answer
SCRAPE_CONNECTIONS: Final = 8  # to the metrics port at once; a bootstrap node's may be open to strangers
API_PAGE: Final = 1_000  # rows an answer

# --- the running node ---
RESTART_FIRST_SECONDS: Final = 1.0  # before a part that failed through a defect begins anew; doubled each time
RESTART_MAX_SECONDS: Final = 60.0
PEERS_SAVE_SECONDS: Final = 600.0  # directory servers known: a node killed within them still has the earlier ones

# --- storage and keys at rest ---
DB_READERS: Final = 2  # read connections: the API and a courier at once; each may keep 2 MiB of pages
DB_GROUP_MAX: Final = 512  # calls that share one commit: bounds how long the first of them waits
DB_BUSY_MILLIS: Final = 5_000  # for another process's lock (a backup tool); the home's lock keeps second daemons out
DB_CACHE_KIB: Final = 8 * 1024  # pages of the writer: its indexes stay decrypted
DB_WAL_PAGES: Final = 4_000  # 16 MiB of log, then it is written back (50 ms): 15 % more rows a second than 1,000 pages
DB_WAL_BYTES: Final = 16 * MIB  # the log file is cut to this after a burst
DB_CHECK_BYTES: Final = 16 * MIB  # whole-file check at start up to this size (40 ms); each page has its own MAC anyway
ARGON2_MEMORY: Final = 64 * MIB  # RFC 9106's second recommendation (64 MiB, 3 passes): 0.1-0.3 s of a 1.5 s start
ARGON2_PASSES: Final = 3
ARGON2_MEMORY_MAX: Final = 1_024 * MIB  # what a file may ask of us: a forged header must not eat the machine
ARGON2_PASSES_MAX: Final = 16
MIN_PASSPHRASE_CHARS: Final = 8  # a floor against slips, not a measure of strength
MAX_PASSPHRASE_BYTES: Final = 4 * KIB
MAX_KEY_FILE_BYTES: Final = 64 * KIB  # about 2 KiB; a certificate with 64 revoked devices adds 3 KiB
MAX_SAVED_PEERS: Final = 200  # DHT servers remembered over a restart: ten buckets' worth
MAX_ADDRESSES_JSON: Final = 4 * KIB  # remembered addresses of a contact or peer
MAX_CLOSED_INVITES: Final = 64  # kept, wiped, so that `invites` can say what became of them
MAX_GUESS_ROWS: Final = 1_000  # other people's codes that we guessed at, today and yesterday
