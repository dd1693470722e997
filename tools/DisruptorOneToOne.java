import com.lmax.disruptor.BatchEventProcessor;
import com.lmax.disruptor.EventHandler;
import com.lmax.disruptor.RingBuffer;
import com.lmax.disruptor.YieldingWaitStrategy;
import java.util.concurrent.CountDownLatch;

/**
 * The Disruptor, one producer and one consumer: events of 8 bytes in batches, as ring_native.c does it with a ring.
 *
 * java DisruptorOneToOne MESSAGES BATCH PASSES prints events per second, a line for each pass.
 */
public final class DisruptorOneToOne {
    private static final int EVENTS = 1 << 16;

    static final class Event {
        long value;
    }

    static final class Sum implements EventHandler<Event> {
        long total;
        long last;
        CountDownLatch done;

        @Override
        public void onEvent(Event event, long sequence, boolean endOfBatch) {
            total += event.value;
            if (sequence == last) {
                done.countDown();
            }
        }
    }

    public static void main(String[] words) throws InterruptedException {
        long messages = Long.parseLong(words[0]);
        int batch = Integer.parseInt(words[1]);
        int passes = Integer.parseInt(words[2]);
        RingBuffer<Event> ring = RingBuffer.createSingleProducer(Event::new, EVENTS, new YieldingWaitStrategy());
        Sum sum = new Sum();
        BatchEventProcessor<Event> processor = new BatchEventProcessor<>(ring, ring.newBarrier(), sum);
        ring.addGatingSequences(processor.getSequence());
        Thread consumer = new Thread(processor, "consumer");
        consumer.setDaemon(true);
        for (int pass = 0; pass < passes; pass++) {
            sum.total = 0;
            sum.done = new CountDownLatch(1);
            sum.last = ring.getCursor() + messages;
            if (pass == 0) {
                consumer.start();
            }
            long began = System.nanoTime();
            for (long next = 1; next <= messages; ) {
                int count = (int) Math.min(batch, messages - next + 1);
                long high = ring.next(count);
                for (long at = high - count + 1; at <= high; at++) {
                    ring.get(at).value = next++;
                }
                ring.publish(high - count + 1, high);
            }
            sum.done.await();
            double seconds = (System.nanoTime() - began) / 1e9;
            if (sum.total != messages * (messages + 1) / 2) {
                System.exit(1); // lost or doubled
            }
            System.out.printf("%.0f%n", messages / seconds);
        }
        processor.halt();
    }
}
