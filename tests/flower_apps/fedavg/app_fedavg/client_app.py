from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from app_fedavg.task import fit, net, share, test

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    model = net()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    x, y = share(
        context.node_config["partition-id"], context.node_config["num-partitions"]
    )
    config = message.content["config"]
    loss = fit(model, x, y, config["lr"], context.run_config["local-epochs"])
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(x)})
    content = RecordDict(
        {"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}
    )
    return Message(content=content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    model = net()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    x, y = share(
        context.node_config["partition-id"], context.node_config["num-partitions"]
    )
    loss, accuracy = test(model, x, y)
    metrics = MetricRecord(
        {"eval_loss": loss, "eval_acc": accuracy, "num-examples": len(x)}
    )
    return Message(content=RecordDict({"metrics": metrics}), reply_to=message)
