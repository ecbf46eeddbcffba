package askwhen.peer;

import java.time.Duration;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.RocksDBConfigSetter;
import org.apache.kafka.streams.state.StoreBuilder;
import org.apache.kafka.streams.state.Stores;
import org.rocksdb.BlockBasedTableConfig;
import org.rocksdb.LRUCache;
import org.rocksdb.Options;
import org.rocksdb.WriteBufferManager;

/**
 * Reads a journal of askwhen, decides what its engine decides, and writes the decisions. It serves
 * until SIGTERM; what is in memory is committed then.
 *
 * <p>Arguments: BROKERS EVENTS DECISIONS GUARANTEE STATE_DIR RECORDS SURVEYS COMMIT_MS
 */
public final class Main {
    private static final long RECORD_CACHE_BYTES = 256L << 20;

    private Main() {}

    /** Block cache and write buffers of all stores together, as one process of askwhen bounds them. */
    public static final class Bounded implements RocksDBConfigSetter {
        private static final LRUCache CACHE = new LRUCache(256L << 20);
        private static final WriteBufferManager BUFFERS = new WriteBufferManager(128L << 20, CACHE);

        @Override
        public void setConfig(String store, Options options, Map<String, Object> configs) {
            BlockBasedTableConfig table = (BlockBasedTableConfig) options.tableFormatConfig();
            table.setBlockCache(CACHE);
            table.setCacheIndexAndFilterBlocks(true);
            options.setWriteBufferManager(BUFFERS);
            options.setTableFormatConfig(table);
        }

        @Override
        public void close(String store, Options options) {}
    }

    public static void main(String[] args) throws InterruptedException {
        String events = args[1];
        String decisions = args[2];
        int surveys = Integer.parseInt(args[6]);
        if (surveys > Byte.MAX_VALUE) {
            throw new IllegalArgumentException("a state names a survey by a byte");
        }
        Progress progress = new Progress(Long.parseLong(args[5]));
        Topology topology = new Topology();
        topology.addSource("events", Serdes.ByteArray().deserializer(), Serdes.ByteArray().deserializer(), events);
        topology.addProcessor("decide", () -> new Decider(surveys, progress), "events");
        topology.addStateStore(store(Decider.USERS), "decide");
        topology.addStateStore(store(Decider.IDS), "decide");
        topology.addSink("decisions", decisions, Serdes.ByteArray().serializer(), Serdes.ByteArray().serializer(), "decide");
        KafkaStreams streams = new KafkaStreams(topology, configuration(args));
        CountDownLatch ended = new CountDownLatch(1);
        streams.setUncaughtExceptionHandler(error -> {
            error.printStackTrace();
            Runtime.getRuntime().halt(1);
            return StreamThreadExceptionResponse.SHUTDOWN_APPLICATION;
        });
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            streams.close(Duration.ofMinutes(2));
            ended.countDown();
        }));
        streams.start();
        ended.await();
    }

    private static StoreBuilder<KeyValueStore<byte[], byte[]>> store(String name) {
        return Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore(name), Serdes.ByteArray(), Serdes.ByteArray())
                .withCachingEnabled();
    }

    private static Properties configuration(String[] args) {
        Properties all = new Properties();
        // Its name makes that of the topics that keep its state.
        all.put(StreamsConfig.APPLICATION_ID_CONFIG, args[2]);
        all.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, args[0]);
        all.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, args[3]);
        all.put(StreamsConfig.STATE_DIR_CONFIG, args[4]);
        all.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, args[7]);
        all.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 2);
        all.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
        all.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, RECORD_CACHE_BYTES);
        all.put(StreamsConfig.ROCKSDB_CONFIG_SETTER_CLASS_CONFIG, Bounded.class);
        all.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        all.put(StreamsConfig.mainConsumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 2_000);
        all.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 128 << 10);
        return all;
    }
}
